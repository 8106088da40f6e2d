//! Calls into the engine: without the GIL, and with panics turned into errors of `lamina.errors`.
//!
//! Long calls can be interrupted by Ctrl-C: the work runs in a thread of its own, while the calling thread checks for
//! signals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use lamina_core::{Error, Result, Task, guarded};
use pyo3::prelude::*;

use crate::error::BindingResult;
use crate::progress;

/// The time between two checks for signals.
const PERIOD: Duration = Duration::from_millis(100);

/// Runs `work` without the GIL.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> BindingResult<T> {
    Ok(py.detach(|| guarded(work))?)
}

/// Runs `work` without the GIL, in `threads` threads, or the default number for 0. A signal handler that raises
/// (Ctrl-C) cancels it.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    threads: usize,
    work: impl FnOnce(&Task<'_>) -> Result<T> + Send,
) -> BindingResult<T> {
    let cancelled = AtomicBool::new(false);
    let check = || if cancelled.load(Ordering::Relaxed) { Err(Error::cancelled()) } else { Ok(()) };
    let mut raised = None;
    let progress = progress::of_this_thread();
    let task = Task::new(threads)?.interrupted_by(&check).watched_by(progress.as_deref());
    let result = py.detach(|| {
        std::thread::scope(|scope| {
            let (sender, done) = channel::<()>();
            let worker = || {
                let _sender = sender;
                work(&task)
            };
            let worker = match std::thread::Builder::new().name("lamina-engine".into()).spawn_scoped(scope, worker) {
                Ok(worker) => worker,
                Err(error) => return Err(Error::no_thread(error)),
            };
            while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(PERIOD) {
                if let Err(error) = Python::attach(|py| py.check_signals()) {
                    raised = Some(error);
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            worker.join().unwrap_or_else(|payload| Err(Error::panicked(&*payload)))
        })
    });
    if let Some(error) = raised {
        return Err(error.into());
    }
    Ok(result?)
}
