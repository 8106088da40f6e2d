//! Encoding and decoding single chunks (docs/format.md §7), for benchmarks and tests.

use std::cell::RefCell;

use lamina_core::{Codec, CodecChoice, Decoder, Encoder, Error, MAX_CHUNK, Result, parse_dtype};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::BindingResult;
use crate::interrupt::detached;

thread_local! {
    // As in a save, every thread keeps the buffers and zstd contexts of its codecs.
    static ENCODER: RefCell<Encoder> = RefCell::new(Encoder::new());
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new());
}

fn named(name: &str) -> Result<Codec> {
    let found = (0..=u8::MAX).filter_map(Codec::from_tag).find(|codec| codec.name() == name);
    found.ok_or_else(|| Error::invalid(format!("unknown codec {name:?}; expected raw, zstd, planes or delta")))
}

fn check_length(length: usize) -> Result<()> {
    if length > MAX_CHUNK {
        return Err(Error::invalid(format!("a chunk has at most {MAX_CHUNK} bytes. Received: {length}")));
    }
    Ok(())
}

/// Encodes a chunk of elements of `dtype`. Returns the name of the codec that was chosen, and the encoded bytes.
#[pyfunction]
pub(crate) fn encode<'py>(
    py: Python<'py>,
    data: PyReadonlyArray1<'_, u8>,
    dtype: &str,
    codec: &str,
) -> BindingResult<(&'static str, Bound<'py, PyBytes>)> {
    let raw = data.as_slice().map_err(|_| Error::invalid("a buffer is not contiguous"))?;
    let choice: CodecChoice = codec.parse()?;
    let (_, element) = parse_dtype(dtype)?;
    check_length(raw.len())?;
    ENCODER.with_borrow_mut(|encoder| {
        let (codec, bytes) = detached(py, || encoder.encode(raw, element, choice))?;
        Ok((codec.name(), PyBytes::new(py, bytes)))
    })
}

/// Decodes what `encode` returned. The caller checks the bytes, as a reader does with the id of the chunk.
#[pyfunction]
pub(crate) fn decode<'py>(
    py: Python<'py>,
    codec: &str,
    data: &[u8],
    raw_length: usize,
) -> BindingResult<Bound<'py, PyBytes>> {
    let codec = named(codec)?;
    check_length(raw_length)?;
    let fill = |dst: &mut [u8]| {
        let done = DECODER.with_borrow_mut(|decoder| detached(py, || decoder.decode_into(codec, data, dst)));
        done.map_err(Into::into)
    };
    Ok(PyBytes::new_with(py, raw_length, fill)?)
}

/// Like `decode`, into existing memory, as a reader decodes into the arrays of a model.
#[pyfunction]
pub(crate) fn decode_into(
    py: Python<'_>,
    codec: &str,
    data: &[u8],
    mut out: PyReadwriteArray1<'_, u8>,
) -> BindingResult<()> {
    let codec = named(codec)?;
    let dst = out.as_slice_mut().map_err(|_| Error::invalid("a buffer is not contiguous"))?;
    check_length(dst.len())?;
    DECODER.with_borrow_mut(|decoder| detached(py, || decoder.decode_into(codec, data, dst)))
}

/// The level of the kernels in this process, as `LAMINA_CPU` names it.
#[pyfunction]
pub(crate) fn cpu_level(py: Python<'_>) -> BindingResult<&'static str> {
    detached(py, || Ok(lamina_core::cpu_level()?.name()))
}
