//! How far a long call is, for whoever watches it from another thread.
//!
//! The thread that makes a call says who watches it; the call counts as it goes on, once per chunk. Counting happens in
//! the last step of a pipeline, which runs in the thread of the call, so nothing has to be handed to the workers.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a call does just now, and how much of it is done.
#[derive(Debug)]
pub struct Progress {
    phase: Mutex<(String, u64, Instant)>,
    done: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { phase: Mutex::new((String::new(), 0, Instant::now())), done: AtomicU64::new(0) }
    }
}

impl Progress {
    fn phase(&self) -> MutexGuard<'_, (String, u64, Instant)> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A phase of `total` bytes begins; 0 where nobody can say how many.
    pub fn begin(&self, what: &str, total: u64) {
        let mut phase = self.phase();
        *phase = (what.to_owned(), total, Instant::now());
        self.done.store(0, Ordering::Relaxed);
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The phase, its bytes that are done, all of them, and how long it has gone on.
    pub fn read(&self) -> (String, u64, u64, Duration) {
        let phase = self.phase();
        (phase.0.clone(), self.done.load(Ordering::Relaxed), phase.1, phase.2.elapsed())
    }
}

thread_local! {
    static WATCHER: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

/// Who watches the calls of this thread.
pub fn watcher() -> Option<Arc<Progress>> {
    WATCHER.with_borrow(Clone::clone)
}

/// Lets `watcher`, or nobody, watch the calls of this thread from now on.
pub fn watch(watcher: Option<Arc<Progress>>) {
    WATCHER.set(watcher);
}

/// Tells the watcher of this thread, if there is one, that a phase begins.
pub fn begin(what: &str, total: u64) {
    WATCHER.with_borrow(|watcher| watcher.iter().for_each(|w| w.begin(what, total)));
}

/// Tells the watcher of this thread, if there is one, that bytes are done.
pub fn advance(bytes: u64) {
    WATCHER.with_borrow(|watcher| watcher.iter().for_each(|w| w.advance(bytes)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_is_watched_counts() {
        let progress = Arc::new(Progress::default());
        advance(1);
        watch(Some(Arc::clone(&progress)));
        begin("saving", 10);
        advance(3);
        std::thread::spawn(|| advance(100)).join().unwrap();
        let read = || (progress.read().0, progress.read().1, progress.read().2);
        assert_eq!(read(), ("saving".to_owned(), 3, 10));
        begin("checking", 5);
        assert_eq!(read(), ("checking".to_owned(), 0, 5));
        watch(None);
        advance(1);
        assert_eq!(read().1, 0);
        assert!(watcher().is_none());
    }
}
