//! Tasks: the threads of a long call, its interrupt, and its progress.

mod pipeline;
pub(crate) mod progress;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use progress::Progress;

/// How a long call runs: its number of threads, what may interrupt it, and where it counts its progress.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    threads: usize,
    interrupt: Option<&'a (dyn Fn() -> Result<()> + Sync)>,
    progress: Option<&'a Progress>,
}

impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl<'a> Task<'a> {
    /// A task with `threads` threads. 0 means the number in the environment variable `LAMINA_THREADS`, or, if it is not
    /// set, one per core, at most 8.
    ///
    /// # Errors
    /// `InvalidInput` if `threads` is 0 and `LAMINA_THREADS` is not a whole number of at least 1.
    ///
    /// # Examples
    /// ```
    /// use lamina_core::Task;
    ///
    /// assert_eq!(Task::new(3)?.threads(), 3);
    /// # Ok::<(), lamina_core::Error>(())
    /// ```
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self { threads: pipeline::threads_or_default(threads)?, interrupt: None, progress: None })
    }

    /// The same task with an interrupt. It is called before each item, from any thread; its error ends the task.
    #[must_use]
    pub fn interrupted_by(self, interrupt: &'a (dyn Fn() -> Result<()> + Sync)) -> Self {
        Self { interrupt: Some(interrupt), ..self }
    }

    /// The same task, which counts its progress in `progress`.
    #[must_use]
    pub fn watched_by(self, progress: Option<&'a Progress>) -> Self {
        Self { progress, ..self }
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Asks the interrupt whether to go on; its error means no.
    pub(crate) fn check(&self) -> Result<()> {
        self.interrupt.map_or(Ok(()), |interrupt| interrupt())
    }

    /// Begins a phase of `total` bytes.
    pub(crate) fn begin(&self, what: &str, total: u64) {
        self.progress.iter().for_each(|progress| progress.begin(what, total));
    }

    /// Counts bytes as done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.progress.iter().for_each(|progress| progress.advance(bytes));
    }

    /// Runs `work` on the items of `source` in parallel, and passes the results to `sink` in order, on the calling
    /// thread. At most `window` results wait. The first error, in order, ends the run. The interrupt is asked before
    /// each item.
    pub(crate) fn run<T, R: Send, W>(
        &self,
        window: usize,
        mut source: impl FnMut() -> Result<Option<T>> + Send,
        worker: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, T) -> Result<R> + Sync,
        sink: impl FnMut(R) -> Result<()>,
    ) -> Result<()> {
        let source = || {
            self.check()?;
            source()
        };
        pipeline::run(self.threads, window, source, worker, work, sink)
    }
}

/// Runs `work` and turns a panic into an error, so that no panic reaches a caller in another language.
///
/// # Errors
/// The error of `work`, or `Internal` if it panics.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Error::panicked(&*payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_panic_is_an_error() {
        assert_eq!(guarded(|| Ok(1)).unwrap(), 1);
        let error = guarded(|| -> Result<()> { panic!("a wheel came off") }).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Internal);
        assert!(error.message().contains("a wheel came off"));
    }

    #[test]
    fn a_task_is_watched_and_ended() {
        let progress = Progress::default();
        let task = Task::new(2).unwrap().watched_by(Some(&progress));
        task.begin("counting", 10);
        let mut items = 0..10u64;
        let mut run = |task: &Task<'_>| {
            task.run(
                3,
                || Ok(items.next()),
                || (),
                |(), i| Ok(i),
                |_| {
                    task.advance(1);
                    Ok(())
                },
            )
        };
        run(&task).unwrap();
        let (phase, done, total, _) = progress.read();
        assert_eq!((phase.as_str(), done, total), ("counting", 10, 10));
        let ended = || Err(Error::cancelled());
        assert_eq!(run(&task.interrupted_by(&ended)).unwrap_err().kind(), crate::ErrorKind::Cancelled);
    }
}
