//! `Temporary`: a folder in which Keras makes what will be renamed. `Claim`: what a living process is at work on.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use lamina_core as core;
use pyo3::prelude::*;

use crate::error::BindingResult;
use crate::interrupt::detached;

/// A hidden folder that is removed with this object, or by the next one in its place if this process is killed.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Temporary {
    #[pyo3(get)]
    path: PathBuf,
    inner: Mutex<Option<core::Temporary>>,
}

#[pymethods]
impl Temporary {
    /// A new folder in `place`, which exists.
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

    /// Removes the folder and all that is in it.
    fn remove(&self, py: Python<'_>) -> BindingResult<()> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        detached(py, || {
            drop(inner);
            Ok(())
        })
    }
}

/// Says that this process is at work on something, until it is released, or the process ends.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Claim {
    inner: Mutex<Option<core::Claim>>,
}

#[pymethods]
impl Claim {
    /// The claim that the file of this name stands for; None where somebody has it.
    #[staticmethod]
    #[allow(clippy::needless_pass_by_value, reason = "what pyo3 makes of an argument")]
    fn take(py: Python<'_>, path: PathBuf) -> BindingResult<Option<Self>> {
        let taken = detached(py, || core::Claim::take(&path))?;
        Ok(taken.map(|claim| Self { inner: Mutex::new(Some(claim)) }))
    }

    /// Gives it back.
    fn release(&self, py: Python<'_>) -> BindingResult<()> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        detached(py, || {
            drop(inner);
            Ok(())
        })
    }
}
