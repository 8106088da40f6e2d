//! Writing files from memory, copying memory, and the envelope of small files.

use std::path::PathBuf;

use lamina_core::{Error, Image, Result, Task, envelope, guarded};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Map, Value};

use crate::error::BindingResult;
use crate::interrupt::detached;

type TensorsArg<'py> = Vec<(u64, PyReadonlyArray1<'py, u8>)>;

fn image_of<'a>(size: u64, tensors: &'a TensorsArg<'_>, literals: &'a PyReadonlyArray1<'_, u8>) -> Result<Image<'a>> {
    let contiguous = |_| Error::invalid("a buffer is not contiguous");
    let slice =
        |(offset, array): &'a (u64, PyReadonlyArray1<'_, u8>)| Ok((*offset, array.as_slice().map_err(contiguous)?));
    let (tensors, literals) =
        (tensors.iter().map(slice).collect::<Result<_>>()?, literals.as_slice().map_err(contiguous)?);
    guarded(|| Image::new(size, tensors, literals))
}

/// Writes a file of `size` bytes atomically, from tensors (offset, uint8 array) and the literal bytes between them.
#[pyfunction]
#[pyo3(signature = (path, size, tensors, literals, threads = 0))]
pub(crate) fn write_file(
    py: Python<'_>,
    path: PathBuf,
    size: u64,
    tensors: TensorsArg<'_>,
    literals: PyReadonlyArray1<'_, u8>,
    threads: usize,
) -> BindingResult<()> {
    let image = image_of(size, &tensors, &literals)?;
    detached(py, || image.write(&path, &Task::new(threads)?))
}

/// Whether the file at `path` is equal to what `write_file` would write.
#[pyfunction]
#[pyo3(signature = (path, size, tensors, literals, threads = 0))]
pub(crate) fn file_is(
    py: Python<'_>,
    path: PathBuf,
    size: u64,
    tensors: TensorsArg<'_>,
    literals: PyReadonlyArray1<'_, u8>,
    threads: usize,
) -> BindingResult<bool> {
    let image = image_of(size, &tensors, &literals)?;
    detached(py, || image.is_at(&path, &Task::new(threads)?))
}

/// The CRC-32 of the file that `write_file` would write.
#[pyfunction]
#[pyo3(signature = (size, tensors, literals, threads = 0))]
pub(crate) fn crc32_file(
    py: Python<'_>,
    size: u64,
    tensors: TensorsArg<'_>,
    literals: PyReadonlyArray1<'_, u8>,
    threads: usize,
) -> BindingResult<u32> {
    let image = image_of(size, &tensors, &literals)?;
    detached(py, || image.crc32(&Task::new(threads)?))
}

/// Copies uint8 arrays to others of the same lengths, in parallel.
#[pyfunction]
#[pyo3(signature = (pairs, threads = 0))]
pub(crate) fn copy_into(
    py: Python<'_>,
    pairs: Vec<(PyReadonlyArray1<'_, u8>, PyReadwriteArray1<'_, u8>)>,
    threads: usize,
) -> BindingResult<()> {
    let mut pairs = pairs;
    let contiguous = |_| Error::invalid("a buffer is not contiguous");
    let mut slices = Vec::with_capacity(pairs.len());
    for (from, to) in &mut pairs {
        slices.push((from.as_slice().map_err(contiguous)?, to.as_slice_mut().map_err(contiguous)?));
    }
    detached(py, || lamina_core::copy_into(slices, &Task::new(threads)?))
}

/// The bytes of a small file of this kind (docs/format.md §4), with a JSON object as its body.
#[pyfunction]
pub(crate) fn seal<'py>(py: Python<'py>, kind: &str, body: &str) -> BindingResult<Bound<'py, PyBytes>> {
    let sealed = detached(py, || {
        let fields: Map<String, Value> =
            serde_json::from_str(body).map_err(|e| Error::invalid(format!("not a JSON object: {e}")))?;
        let mut map = envelope::body([]);
        map.extend(fields);
        envelope::seal(kind, &map)
    })?;
    Ok(PyBytes::new(py, &sealed))
}

/// Checks a small file of this kind. Returns its body as JSON text. `what` names the file in messages.
#[pyfunction]
pub(crate) fn unseal(py: Python<'_>, kind: &str, data: &[u8], what: &str) -> BindingResult<String> {
    detached(py, || Ok(Value::Object(envelope::unseal(data, kind, what)?.1).to_string()))
}
