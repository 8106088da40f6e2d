//! Conversion of errors of the core to the classes of `lamina.errors`.

use lamina_core::{Error, ErrorKind};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

/// The error of a binding function.
pub(crate) enum BindingError {
    Core(Error),
    Py(PyErr),
}

pub(crate) type BindingResult<T> = Result<T, BindingError>;

impl From<Error> for BindingError {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl From<PyErr> for BindingError {
    fn from(error: PyErr) -> Self {
        Self::Py(error)
    }
}

impl From<BindingError> for PyErr {
    fn from(error: BindingError) -> Self {
        match error {
            BindingError::Py(error) => error,
            BindingError::Core(error) => Python::attach(|py| to_python(py, &error).unwrap_or_else(|e| e)),
        }
    }
}

fn to_python(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = match error.kind() {
        ErrorKind::InvalidInput => "InvalidInputError",
        ErrorKind::NotFound => "NotFoundError",
        ErrorKind::Corrupt => "CorruptDataError",
        ErrorKind::Unsupported => "UnsupportedFormatError",
        ErrorKind::Io => "StorageError",
        ErrorKind::Busy => "BusyError",
        ErrorKind::Internal => "LaminaError",
        ErrorKind::Cancelled => return Ok(PyKeyboardInterrupt::new_err(())),
    };
    let class = py.import("lamina.errors")?.getattr(class)?;
    let value = match error.errno() {
        Some(errno) => class.call1((errno, error.message().trim_end_matches(&format!(" (os error {errno})"))))?,
        None => class.call1((error.message(),))?,
    };
    Ok(PyErr::from_value(value))
}
