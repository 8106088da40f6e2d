//! The progress of a long call, which another thread may read. The call updates it once per chunk.

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

    /// Begins a phase of `total` bytes; 0 if the number is not known.
    pub fn begin(&self, what: &str, total: u64) {
        let mut phase = self.phase();
        *phase = (what.to_owned(), total, Instant::now());
        self.done.store(0, Ordering::Relaxed);
    }

    /// Counts bytes as done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The name of the phase, its bytes that are done, its bytes in total, and how long it has been running.
    pub fn read(&self) -> (String, u64, u64, Duration) {
        let phase = self.phase();
        (phase.0.clone(), self.done.load(Ordering::Relaxed), phase.1, phase.2.elapsed())
    }
}
