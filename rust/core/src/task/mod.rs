//! What every long call has: threads that work side by side, a way to end it, and a count of what is done.

mod pipeline;
pub(crate) mod progress;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use progress::Progress;

/// How a long call is carried out: in how many threads, what may end it, and who watches it.
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
    /// A call in `threads` threads, or where that is 0: in `LAMINA_THREADS`, else in one per core, at most 8.
    ///
    /// # Errors
    /// `InvalidInput` where `LAMINA_THREADS` is no number of threads.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self { threads: pipeline::threads_or_default(threads)?, interrupt: None, progress: None })
    }

    /// The same call, which asks `interrupt` again and again; its error ends the call.
    #[must_use]
    pub fn interrupted_by(self, interrupt: &'a (dyn Fn() -> Result<()> + Sync)) -> Self {
        Self { interrupt: Some(interrupt), ..self }
    }

    /// The same call, which counts for `progress`.
    #[must_use]
    pub fn watched_by(self, progress: Option<&'a Progress>) -> Self {
        Self { progress, ..self }
    }

    /// Threads that work side by side.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether the call goes on.
    ///
    /// # Errors
    /// The one that ends it.
    pub(crate) fn check(&self) -> Result<()> {
        self.interrupt.map_or(Ok(()), |interrupt| interrupt())
    }

    /// A phase of `total` bytes begins.
    pub(crate) fn begin(&self, what: &str, total: u64) {
        self.progress.iter().for_each(|progress| progress.begin(what, total));
    }

    /// So many bytes more are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.progress.iter().for_each(|progress| progress.advance(bytes));
    }

    /// Runs `work` on the items of `source` side by side and gives the results to `sink` in order, on the calling thread;
    /// at most `window` results wait. The first error, in order, ends it. Before each item it is asked whether to go on.
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

/// Does `work`; a panic in it becomes an error, so that none reaches whoever is no Rust.
///
/// # Errors
/// What `work` fails with, `Internal` where it panics.
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
