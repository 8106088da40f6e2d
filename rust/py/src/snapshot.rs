//! `Snapshot`: the fields of a snapshot.

use std::sync::Arc;

use lamina_core::{self as core, Error};
use pyo3::prelude::*;

use crate::error::BindingResult;
use crate::interrupt::detached;

/// A snapshot, read from its file and checked.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Snapshot {
    pub(crate) inner: Arc<core::Snapshot>,
}

impl From<Arc<core::Snapshot>> for Snapshot {
    fn from(inner: Arc<core::Snapshot>) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl Snapshot {
    /// The id: the first 32 hex digits of the digest of the file.
    #[getter]
    fn id(&self) -> &str {
        &self.inner.id
    }

    /// The sequence number in its repository; 0 outside a repository.
    #[getter]
    fn number(&self) -> u64 {
        self.inner.number
    }

    /// The length of the snapshot file in bytes.
    #[getter]
    fn file_bytes(&self) -> u64 {
        self.inner.file_bytes
    }

    /// The body of the file, as JSON text.
    fn body(&self, py: Python<'_>) -> BindingResult<String> {
        detached(py, || serde_json::to_string(&self.inner.body).map_err(|e| Error::invalid(e.to_string())))
    }
}

/// Reads and checks the bytes of a snapshot file (an artifact's `lamina.json`).
#[pyfunction]
pub(crate) fn parse_snapshot(py: Python<'_>, data: &[u8], what: &str) -> BindingResult<Snapshot> {
    detached(py, || Ok(Arc::new(core::Snapshot::parse(data, 0, what)?).into()))
}
