//! Locks on files.
//!
//! A forked child inherits the descriptors of locked files, and a lock stands until all of them are
//! closed. A data loader's worker must not keep the session of a saver alive that was killed.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::Result;
use crate::storage::{self, Lockable};

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

/// Tries to lock the file of this name; the lock stands as long as the file that comes with it is open.
pub(crate) fn try_lock(path: &Path) -> (Lockable, Option<File>) {
    let Ok(file) = storage::open_lock(path, false) else { return (Lockable::Unknown, None) };
    let told = storage::try_lock(&file, path);
    (told, Some(file).filter(|_| told == Lockable::Free))
}

/// Holds the lock of a file just made; `None` where a sweep took it for a dead one's: then draw another name.
pub(crate) fn hold(file: File, path: &Path) -> Result<Option<LockFile>> {
    let lock = LockFile::new(file);
    if storage::try_lock(lock.file(), path) == Lockable::Held {
        return Ok(None);
    }
    Ok(storage::exists(path)?.then_some(lock))
}

/// The lock of a session, or another folder, whose process is gone. Where a crash took the lock file it is made anew, exclusively, so that whoever
/// is about to begin a session in this very folder draws another name.
pub(crate) fn dead(lock: &Path) -> Option<File> {
    if let Ok(Some(file)) = storage::create_if_free(lock) {
        return (storage::try_lock(&file, lock) == Lockable::Free).then_some(file);
    }
    try_lock(lock).1
}

/// Says that a living process is at work on something. It is given back when it is dropped, or when its process ends.
#[derive(Debug)]
pub struct Claim {
    lock: Option<LockFile>,
    owner: u32,
}

impl Claim {
    /// Takes the claim that the file of this name stands for; `None` where somebody has it. Where locks do not work
    /// nobody can tell, and everybody gets one.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        let file = storage::open_lock(path, true)?;
        let free = storage::try_lock(&file, path) != Lockable::Held;
        Ok(free.then(|| Self { lock: Some(LockFile::new(file)), owner: std::process::id() }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            // A forked child has a copy, whose descriptor `close_inherited_locks` has closed already.
            std::mem::forget(self.lock.take());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Claim::take(&path).unwrap().unwrap();
        assert!(Claim::take(&path).unwrap().is_none());
        drop(held);
        assert!(Claim::take(&path).unwrap().is_some());
        assert!(Claim::take(&folder.path().join("none/lock")).is_err());
    }

    #[cfg(target_os = "linux")]
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
