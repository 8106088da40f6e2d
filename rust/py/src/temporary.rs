//! `Temporary`: a folder in which Keras writes a file that is then renamed. `Claim`: says that a process works on
//! something.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use lamina_core as core;
use pyo3::prelude::*;

use crate::error::BindingResult;
use crate::interrupt::detached;

/// A hidden folder. It is removed with this object. If the process is killed, the next one in the same place removes
/// it.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Temporary {
    #[pyo3(get)]
    path: PathBuf,
    inner: Mutex<Option<core::Temporary>>,
}

#[pymethods]
impl Temporary {
    /// Creates a folder in the existing folder `place`.
    #[new]
    #[allow(clippy::needless_pass_by_value, reason = "what pyo3 makes of an argument")]
    fn new(py: Python<'_>, place: PathBuf) -> BindingResult<Self> {
        let made = detached(py, || {
            let made = core::Temporary::folder(&place)?;
            made.sweep();
            Ok(made)
        })?;
        Ok(Self { path: made.path().to_owned(), inner: Mutex::new(Some(made)) })
    }

    /// Removes the folder with everything in it.
    fn remove(&self, py: Python<'_>) -> BindingResult<()> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        detached(py, || {
            drop(inner);
            Ok(())
        })
    }
}

/// A claim: says that this process works on something. It ends when it is released, or when the process ends.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Claim {
    inner: Mutex<Option<core::Claim>>,
}

#[pymethods]
impl Claim {
    /// Takes the claim whose lock file is `path`. None if another process has it.
    #[staticmethod]
    #[allow(clippy::needless_pass_by_value, reason = "what pyo3 makes of an argument")]
    fn take(py: Python<'_>, path: PathBuf) -> BindingResult<Option<Self>> {
        let taken = detached(py, || core::Claim::take(&path))?;
        Ok(taken.map(|claim| Self { inner: Mutex::new(Some(claim)) }))
    }

    /// Releases the claim.
    fn release(&self, py: Python<'_>) -> BindingResult<()> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        detached(py, || {
            drop(inner);
            Ok(())
        })
    }
}
