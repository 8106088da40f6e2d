//! What a verify and a prune tell.

use lamina_core::{self as core, Report, Result};
use pyo3::prelude::*;

/// What a verify looked at and found.
#[pyclass(frozen, get_all, module = "lamina._core")]
pub(crate) struct Verified {
    snapshots: usize,
    packs: usize,
    chunks: u64,
    bytes: u64,
    problems: Vec<String>,
    /// What is lost, as JSON text.
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
    /// Numbers of the snapshots.
    snapshots: Vec<u64>,
    packs: usize,
    /// Bytes of these packs.
    bytes: u64,
    /// Packs that wait for saves under way.
    waiting: usize,
}

impl From<core::Pruned> for Pruned {
    fn from(pruned: core::Pruned) -> Self {
        let core::Pruned { snapshots, packs, bytes, waiting } = pruned;
        Self { snapshots, packs, bytes, waiting }
    }
}
