//! How far a long call is, for whoever watches it from another thread.
//!
//! The call counts as it goes on, once per chunk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The current phase of a call, and how much of it is done.
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
