//! Locks and `fork`: a forked child inherits the descriptors of locked files, and a lock stands until all of them are
//! closed. A data loader's worker must not keep the session of a saver alive that was killed.

use std::fs::File;
use std::sync::atomic::{AtomicI32, Ordering};

/// Descriptors of lock files that this process holds; more than saves and files of one restore ever are at once. -1 is a free place.
static HELD: [AtomicI32; 1024] = [const { AtomicI32::new(-1) }; 1024];

/// A lock file whose descriptor a forked child closes.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    place: Option<&'static AtomicI32>,
}

#[cfg(unix)]
fn descriptor(file: &File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

#[cfg(not(unix))]
fn descriptor(_file: &File) -> i32 {
    -1
}

impl LockFile {
    /// Takes a lock file.
    pub fn new(file: File) -> Self {
        let take = |place: &&AtomicI32| {
            place.compare_exchange(-1, descriptor(&file), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let place = HELD.iter().find(take);
        Self { file, place }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.store(-1, Ordering::Release);
        }
    }
}

/// To be called in a forked child before anything else runs there: closes the inherited lock descriptors.
pub fn close_inherited_locks() {
    close_all(&HELD);
}

#[cfg(not(unix))]
fn close_all(_: &[AtomicI32]) {}

#[cfg(unix)]
#[allow(unsafe_code)]
fn close_all(places: &[AtomicI32]) {
    for place in places {
        let descriptor = place.swap(-1, Ordering::AcqRel);
        if descriptor >= 0 {
            // SAFETY: the descriptor belongs to a `LockFile` of a thread of the parent. A forked child has only the thread
            // that forked; the engine's calls run in threads of their own (`interruptible` in the binding, the pipeline),
            // so the `LockFile` is never used or dropped here, and closing its descriptor once takes it from nobody.
            unsafe {
                libc::close(descriptor);
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_once_its_descriptors_are_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = File::create(&path).unwrap();
        file.try_lock().unwrap();
        let inherited = LockFile::new(file.try_clone().unwrap());
        drop(file);
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err());
        // Not those of tests beside this one.
        close_all(std::slice::from_ref(inherited.place.unwrap()));
        other.try_lock().unwrap();
        // In a real child it is never dropped.
        std::mem::forget(inherited);
    }
}
