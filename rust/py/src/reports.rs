//! What a verify and a prune tell.

use lamina_core::{self as core, Report, Result};
use pyo3::prelude::*;

/// The result of a verify.
#[pyclass(frozen, get_all, module = "lamina._core")]
pub(crate) struct Verified {
    snapshots: usize,
    packs: usize,
    chunks: u64,
    bytes: u64,
    problems: Vec<String>,
    /// What the snapshots have lost, as JSON text.
    lost: String,
}

impl Verified {
    pub(crate) fn new(report: Report) -> Result<Self> {
        let lost = report.lost_json()?;
        let Report { snapshots, packs, chunks, bytes, problems, .. } = report;
        Ok(Self { snapshots, packs, chunks, bytes, problems, lost })
    }
}

/// What a prune deleted, or would delete.
#[pyclass(frozen, get_all, module = "lamina._core")]
pub(crate) struct Pruned {
    /// The numbers of the snapshots.
    snapshots: Vec<u64>,
    packs: usize,
    /// The bytes of these packs.
    bytes: u64,
    /// The number of packs that a later prune deletes, because running saves may use them.
    waiting: usize,
}

impl From<core::Pruned> for Pruned {
    fn from(pruned: core::Pruned) -> Self {
        let core::Pruned { snapshots, packs, bytes, waiting } = pruned;
        Self { snapshots, packs, bytes, waiting }
    }
}
