//! `Reader`: reads verified bytes of a snapshot.

use std::path::PathBuf;

use lamina_core::{self as core, Error, Want};
use numpy::PyReadwriteArray1;
use pyo3::prelude::*;

use crate::error::BindingResult;
use crate::interrupt::{detached, interruptible};

/// An open snapshot. Its structure has been read; its bytes are read on demand.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Reader {
    pub(crate) inner: core::Reader,
}

#[pymethods]
impl Reader {
    /// Opens the snapshot of an artifact directory: its file, its placement file, and the folder of its packs.
    #[staticmethod]
    fn open_artifact(py: Python<'_>, snapshot: PathBuf, placement: PathBuf, packs: PathBuf) -> BindingResult<Self> {
        Ok(Self { inner: detached(py, || core::Reader::open_artifact(&snapshot, &placement, packs))? })
    }

    /// The structure as JSON text (docs/format.md §5.1).
    fn structure(&self, py: Python<'_>) -> BindingResult<String> {
        detached(py, || String::from_utf8(self.inner.structure.to_bytes()?).map_err(|e| Error::corrupt(e.to_string())))
    }

    /// Fills each uint8 array with verified bytes of the state, from its offset on.
    #[pyo3(signature = (wants, threads = 0))]
    fn read(&self, py: Python<'_>, wants: Vec<(u64, PyReadwriteArray1<'_, u8>)>, threads: usize) -> BindingResult<()> {
        let mut arrays = wants;
        let mut list = Vec::with_capacity(arrays.len());
        for (offset, array) in &mut arrays {
            let to = array.as_slice_mut().map_err(|_| Error::invalid("a destination is not contiguous"))?;
            list.push(Want { offset: *offset, to });
        }
        interruptible(py, threads, |task| self.inner.read(list, task))
    }

    /// Writes the files of the snapshot into a folder. Returns their paths.
    #[pyo3(signature = (folder, threads = 0))]
    fn export(&self, py: Python<'_>, folder: PathBuf, threads: usize) -> BindingResult<Vec<PathBuf>> {
        interruptible(py, threads, |task| self.inner.export(&folder, task))
    }

    /// The ids and raw lengths of the chunks that hold bytes `offset..offset + length` of the state.
    fn chunks(&self, py: Python<'_>, offset: u64, length: u64) -> BindingResult<Vec<(String, u32)>> {
        detached(py, || Ok(self.inner.chunks(offset, length).iter().map(|c| (c.id.hex(), c.len)).collect()))
    }

    /// The encoded lengths of the chunks that hold bytes `offset..offset + length` of the state.
    fn encoded(&self, py: Python<'_>, offset: u64, length: u64) -> BindingResult<Vec<u32>> {
        detached(py, || {
            let chunks = self.inner.chunks(offset, length).iter();
            Ok(chunks.map(|c| self.inner.encoded(&c.id).unwrap_or(c.len)).collect())
        })
    }

    /// The names of the packs that the snapshot needs, sorted.
    fn packs(&self, py: Python<'_>) -> BindingResult<Vec<String>> {
        detached(py, || {
            let mut names: Vec<_> = self.inner.packs().iter().map(|n| n.hex()).collect();
            names.sort();
            Ok(names)
        })
    }
}
