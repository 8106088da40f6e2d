//! `Progress`: counters that a long call updates and another thread reads, without running Python code.

use std::cell::RefCell;
use std::sync::Arc;

use lamina_core as core;
use pyo3::prelude::*;

/// The current phase of a call, and how much of it is done.
#[pyclass(frozen, module = "lamina._core")]
pub(crate) struct Progress {
    inner: Arc<core::Progress>,
}

#[pymethods]
impl Progress {
    #[new]
    fn new() -> Self {
        Self { inner: Arc::default() }
    }

    /// Begins a phase of `total` bytes; 0 if the number is not known.
    fn begin(&self, what: &str, total: u64) {
        self.inner.begin(what, total);
    }

    /// Counts bytes as done.
    fn advance(&self, bytes: u64) {
        self.inner.advance(bytes);
    }

    /// The name of the phase, its bytes that are done, its bytes in total, and the seconds that it has been running.
    fn read(&self) -> (String, u64, u64, f64) {
        let (what, done, total, time) = self.inner.read();
        (what, done, total, time.as_secs_f64())
    }
}

thread_local! {
    static WATCHER: RefCell<Option<Arc<core::Progress>>> = const { RefCell::new(None) };
}

/// What counts the calls that this thread makes.
pub(crate) fn of_this_thread() -> Option<Arc<core::Progress>> {
    WATCHER.with_borrow(Clone::clone)
}

/// Lets `progress`, or nobody, watch the calls of this thread from now on.
#[pyfunction]
pub(crate) fn watch(progress: Option<&Progress>) {
    WATCHER.set(progress.map(|p| Arc::clone(&p.inner)));
}

/// Who watches the calls of this thread.
#[pyfunction]
pub(crate) fn watcher() -> Option<Progress> {
    of_this_thread().map(|inner| Progress { inner })
}
