//! Conversion of Python arguments to types of the core.

use lamina_core::{Body, Error, FileSpec, Result, TensorSpec};
use pyo3::prelude::*;

/// (name, dtype, shape, role, offset)
#[derive(FromPyObject)]
pub(crate) struct TensorArg(String, String, Vec<u64>, String, u64);

/// (path, size, tensors)
#[derive(FromPyObject)]
pub(crate) struct FileArg(String, u64, Vec<TensorArg>);

pub(crate) fn tensors(args: Vec<TensorArg>) -> Vec<TensorSpec> {
    let spec = |TensorArg(name, dtype, shape, role, offset)| TensorSpec { name, dtype, shape, role, offset };
    args.into_iter().map(spec).collect()
}

pub(crate) fn files(args: Vec<FileArg>) -> Vec<FileSpec> {
    args.into_iter().map(|FileArg(path, size, list)| FileSpec { path, size, tensors: tensors(list) }).collect()
}

pub(crate) fn body(json: &str) -> Result<Body> {
    serde_json::from_str(json)
        .map_err(|e| Error::invalid(format!("the description of the snapshot is not usable: {e}")))
}
