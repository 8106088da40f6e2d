//! `Repository`: save, look up, verify, prune.

use std::collections::HashMap;
use std::path::PathBuf;

use lamina_core::{
    self as core, CodecChoice, Error, FileSource, Keep, Layout, MemorySource, PackName, Result, StateSource, Task,
    guarded,
};
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::convert::{self, FileArg, TensorArg};
use crate::error::BindingResult;
use crate::interrupt::{detached, interruptible};
use crate::reader::Reader;
use crate::reports::{Pruned, Verified};
use crate::snapshot::Snapshot;

/// An open repository.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Repository {
    inner: core::Repository,
}

/// The number of threads that the engine uses by default.
#[pyfunction]
pub(crate) fn default_threads(py: Python<'_>) -> BindingResult<usize> {
    detached(py, || Ok(Task::new(0)?.threads()))
}

/// The common arguments of a save from files and from memory.
struct Save<'a> {
    repository: &'a core::Repository,
    body: &'a str,
    codec: CodecChoice,
}

impl Save<'_> {
    fn run(&self, layout: &Layout, source: &dyn StateSource, task: &Task<'_>) -> Result<Snapshot> {
        Ok(self.repository.save(convert::body(self.body)?, layout, source, self.codec, task)?.into())
    }
}

/// (last, best, every)
type KeepArg = (Option<usize>, Option<usize>, Option<u64>);

#[pymethods]
impl Repository {
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> BindingResult<Self> {
        Ok(Self { inner: detached(py, || core::Repository::open(&path))? })
    }

    #[staticmethod]
    fn open_or_create(py: Python<'_>, path: PathBuf, created_at: &str) -> BindingResult<Self> {
        Ok(Self { inner: detached(py, || core::Repository::open_or_create(&path, created_at))? })
    }

    #[getter]
    fn root(&self) -> PathBuf {
        self.inner.root().to_owned()
    }

    #[getter]
    fn id(&self) -> &str {
        self.inner.id()
    }

    /// All snapshots, sorted by number.
    fn snapshots(&self, py: Python<'_>) -> BindingResult<Vec<Snapshot>> {
        let all = detached(py, || self.inner.snapshots())?;
        Ok(all.into_iter().map(Snapshot::from).collect())
    }

    fn resolve(&self, py: Python<'_>, series: Option<&str>, reference: &str) -> BindingResult<Snapshot> {
        Ok(detached(py, || self.inner.resolve(series, reference))?.into())
    }

    /// The aliases of each snapshot, by its number.
    fn aliases(&self, py: Python<'_>) -> BindingResult<HashMap<u64, Vec<String>>> {
        detached(py, || self.inner.aliases())
    }

    fn set_alias(&self, py: Python<'_>, snapshot: &Snapshot, alias: &str) -> BindingResult<()> {
        detached(py, || self.inner.set_alias(&snapshot.inner, alias))
    }

    fn remove_alias(&self, py: Python<'_>, series: &str, alias: &str) -> BindingResult<bool> {
        detached(py, || self.inner.remove_alias(series, alias))
    }

    /// Saves files on disk. Each is (path in the snapshot, size, tensors), and has a path on disk. `variables` has Keras's
    /// path of the variable of each tensor, for each file.
    #[pyo3(signature = (body, files, paths, codec, threads = 0, variables = vec![]))]
    #[allow(clippy::too_many_arguments, reason = "as for save_memory")]
    fn save_files(
        &self,
        py: Python<'_>,
        body: &str,
        files: Vec<FileArg>,
        paths: Vec<PathBuf>,
        codec: &str,
        threads: usize,
        variables: Vec<Vec<Option<String>>>,
    ) -> BindingResult<Snapshot> {
        let save = Save { repository: &self.inner, body, codec: codec.parse()? };
        interruptible(py, threads, |task| {
            let specs = convert::files(files);
            save.run(&Layout::new(&specs, &[])?.with_variables(variables)?, &FileSource::open(&specs, paths)?, task)
        })
    }

    /// Saves memory. `arrays` has a list of uint8 arrays, one for each tensor, for each file, and a last list for the
    /// training tensors. `literals` has the bytes of each file outside its tensors, `variables` Keras's path of the
    /// variable of each tensor. Nobody may write to the arrays until the call returns.
    #[pyo3(signature = (body, files, training, arrays, literals, codec, threads = 0, variables = vec![]))]
    #[allow(
        clippy::too_many_arguments,
        reason = "the arguments of one save; a struct would only be built to be taken apart"
    )]
    fn save_memory(
        &self,
        py: Python<'_>,
        body: &str,
        files: Vec<FileArg>,
        training: Vec<TensorArg>,
        arrays: Vec<Vec<PyReadonlyArray1<'_, u8>>>,
        literals: Vec<PyReadonlyArray1<'_, u8>>,
        codec: &str,
        threads: usize,
        variables: Vec<Vec<Option<String>>>,
    ) -> BindingResult<Snapshot> {
        let save = Save { repository: &self.inner, body, codec: codec.parse()? };
        let tensors = arrays.iter().map(|file| slices(file)).collect::<Result<Vec<_>>>()?;
        let source = MemorySource { tensors, literals: slices(&literals)? };
        interruptible(py, threads, |task| {
            let layout = Layout::new(&convert::files(files), &convert::tensors(training))?.with_variables(variables)?;
            source.check(&layout)?;
            save.run(&layout, &source, task)
        })
    }

    fn reader(&self, py: Python<'_>, snapshot: &Snapshot) -> BindingResult<Reader> {
        Ok(Reader { inner: detached(py, || self.inner.reader(&snapshot.inner))? })
    }

    /// The names and lengths of the packs that a snapshot needs, sorted by name.
    fn packs_of(&self, py: Python<'_>, snapshot: &Snapshot) -> BindingResult<Vec<(String, u64)>> {
        let packs = detached(py, || self.inner.packs_of(&snapshot.inner))?;
        Ok(packs.into_iter().map(|(name, length)| (name.hex(), length)).collect())
    }

    fn snapshot_bytes<'py>(&self, py: Python<'py>, number: u64) -> BindingResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.inner.snapshot_bytes(number))?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn placement_bytes<'py>(&self, py: Python<'py>, snapshot: &Snapshot) -> BindingResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.inner.placement_bytes(&snapshot.inner))?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[pyo3(signature = (full, threads = 0))]
    fn verify(&self, py: Python<'_>, full: bool, threads: usize) -> BindingResult<Verified> {
        interruptible(py, threads, |task| Verified::new(self.inner.verify(full, task)?))
    }

    /// Verifies a sample of the chunks. `share` is the expected part, and `seed` decides which chunks.
    #[pyo3(signature = (share, seed, threads = 0))]
    fn verify_sample(&self, py: Python<'_>, share: f64, seed: u64, threads: usize) -> BindingResult<Verified> {
        interruptible(py, threads, |task| Verified::new(self.inner.verify_sample(share, seed, task)?))
    }

    /// The names of the damaged packs among `names`, or among all. Reads every byte of them.
    #[pyo3(signature = (names = None, threads = 0))]
    fn damaged_packs(&self, py: Python<'_>, names: Option<Vec<String>>, threads: usize) -> BindingResult<Vec<String>> {
        let names =
            names.map(|names| names.iter().map(|name| pack_name(name)).collect::<Result<Vec<_>>>()).transpose()?;
        let found = interruptible(py, threads, |task| self.inner.damaged_packs(names, task))?;
        Ok(found.iter().map(|name| name.hex()).collect())
    }

    /// Restores a damaged or missing config. Returns what was done, as JSON text.
    #[staticmethod]
    fn restore_config(py: Python<'_>, path: PathBuf, sources: Vec<PathBuf>, created_at: &str) -> BindingResult<String> {
        interruptible(py, 1, |task| core::Repository::restore_config(&path, &sources, created_at, task)?.to_json())
    }

    /// Repairs the repository. Returns what was done and what is lost, as JSON text.
    #[pyo3(signature = (suspects, sources, threads = 0))]
    fn repair(
        &self,
        py: Python<'_>,
        suspects: Vec<String>,
        sources: Vec<PathBuf>,
        threads: usize,
    ) -> BindingResult<String> {
        let suspects = suspects.iter().filter_map(|name| PackName::from_hex(name)).collect();
        interruptible(py, threads, |task| self.inner.repair(suspects, &sources, task)?.to_json())
    }

    /// Imports the snapshot of an artifact directory. Returns it, whether it is new, and the bytes by which the packs
    /// have grown.
    #[pyo3(signature = (folder, series = None, threads = 0))]
    fn import_snapshot(
        &self,
        py: Python<'_>,
        folder: PathBuf,
        series: Option<&str>,
        threads: usize,
    ) -> BindingResult<(Snapshot, bool, u64)> {
        let done = interruptible(py, threads, |task| self.inner.import(&folder, series, task))?;
        Ok((done.snapshot.into(), done.new, done.bytes))
    }

    #[pyo3(signature = (keep, series = None, dry_run = false))]
    fn prune(
        &self,
        py: Python<'_>,
        keep: Option<KeepArg>,
        series: Option<&str>,
        dry_run: bool,
    ) -> BindingResult<Pruned> {
        let keep = keep.map(|(last, best, every)| Keep { last, best, every });
        let pruned = interruptible(py, 1, |task| self.inner.prune(keep.as_ref(), series, dry_run, task))?;
        Ok(pruned.into())
    }

    #[pyo3(signature = (number, dry_run = false))]
    fn forget(&self, py: Python<'_>, number: u64, dry_run: bool) -> BindingResult<Pruned> {
        Ok(interruptible(py, 1, |task| self.inner.forget(number, dry_run, task))?.into())
    }
}

fn pack_name(text: &str) -> Result<PackName> {
    PackName::from_hex(text).ok_or_else(|| Error::invalid(format!("{text:?} is no name of a pack")))
}

fn slices<'a>(arrays: &'a [PyReadonlyArray1<'_, u8>]) -> Result<Vec<&'a [u8]>> {
    let slice =
        |a: &'a PyReadonlyArray1<'_, u8>| a.as_slice().map_err(|_| Error::invalid("a buffer is not contiguous"));
    arrays.iter().map(slice).collect()
}

/// The MD5 digests of files, as 32 hex digits.
#[pyfunction]
pub(crate) fn md5_files(py: Python<'_>, paths: Vec<PathBuf>) -> BindingResult<Vec<String>> {
    detached(py, || core::md5_of_files(&paths))
}

/// Call it before a fork, in the forking thread.
#[pyfunction]
pub(crate) fn fork_begins() -> BindingResult<()> {
    of_a_fork(core::fork_begins)
}

/// Call it after a fork, in the parent.
#[pyfunction]
pub(crate) fn fork_ended() -> BindingResult<()> {
    of_a_fork(core::fork_ended)
}

/// Call it after a fork, in the child: closes the inherited lock files.
#[pyfunction]
pub(crate) fn close_inherited_locks() -> BindingResult<()> {
    of_a_fork(core::close_inherited_locks)
}

/// Runs a step of a fork with the GIL, which the forking thread must not release.
fn of_a_fork(step: fn()) -> BindingResult<()> {
    Ok(guarded(|| {
        step();
        Ok(())
    })?)
}

/// Checks the name of a user alias.
#[pyfunction]
pub(crate) fn check_alias(py: Python<'_>, alias: &str) -> BindingResult<()> {
    detached(py, || core::check_alias(alias))
}
