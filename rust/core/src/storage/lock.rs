//! Locks on files.
//!
//! A forked child inherits the descriptors of locked files, and a lock stands until all of them are
//! closed. A data loader's worker must not keep the session of a saver alive that was killed.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Result;
use crate::storage::{self, Lockable};

/// Descriptors of lock files that this process has open.
static HELD: Mutex<Vec<i32>> = Mutex::new(vec![]);

/// A fork has this alone; those who open or close a lock file have it together. So a fork finds every descriptor that is
/// open in [`HELD`], and none there that is closed, whose number may be another file's by now.
static FORK: RwLock<()> = RwLock::new(());

fn together() -> RwLockReadGuard<'static, ()> {
    FORK.read().unwrap_or_else(PoisonError::into_inner)
}

fn held() -> MutexGuard<'static, Vec<i32>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock file whose descriptor a forked child closes.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: Option<File>,
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
    /// The lock file that `open` opens.
    pub(crate) fn new(open: impl FnOnce() -> Result<File>) -> Result<Self> {
        let _together = together();
        Ok(Self::of(open()?))
    }

    /// The same, `None` where `open` gives none.
    pub(crate) fn new_if(open: impl FnOnce() -> Result<Option<File>>) -> Result<Option<Self>> {
        let _together = together();
        Ok(open()?.map(Self::of))
    }

    fn of(file: File) -> Self {
        held().push(descriptor(&file));
        Self { file: Some(file) }
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().expect("open until it is dropped")
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        let _together = together();
        let Some(file) = self.file.take() else { return };
        let closed = descriptor(&file);
        drop(file);
        let mut held = held();
        if let Some(place) = held.iter().position(|&open| open == closed) {
            held.swap_remove(place);
        }
    }
}

/// Tries to lock the file of this name; the lock stands as long as the file that comes with it is open.
pub(crate) fn try_lock(path: &Path) -> (Lockable, Option<LockFile>) {
    let Ok(lock) = LockFile::new(|| storage::open_lock(path, false)) else { return (Lockable::Unknown, None) };
    let told = storage::try_lock(lock.file(), path);
    (told, Some(lock).filter(|_| told == Lockable::Free))
}

/// Holds the lock of a file just made; `None` where a sweep took it for a dead one's: then draw another name.
pub(crate) fn hold(lock: LockFile, path: &Path) -> Result<Option<LockFile>> {
    if storage::try_lock(lock.file(), path) == Lockable::Held {
        return Ok(None);
    }
    Ok(storage::exists(path)?.then_some(lock))
}

/// The lock of a session, or another folder, whose process is gone. Where a crash took the lock file it is made anew,
/// exclusively, so that whoever is about to begin a session in this very folder draws another name.
pub(crate) fn dead(path: &Path) -> Option<LockFile> {
    if let Ok(Some(lock)) = LockFile::new_if(|| storage::create_if_free(path)) {
        return (storage::try_lock(lock.file(), path) == Lockable::Free).then_some(lock);
    }
    try_lock(path).1
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
        let lock = LockFile::new(|| storage::open_lock(path, true))?;
        let free = storage::try_lock(lock.file(), path) != Lockable::Held;
        Ok(free.then(|| Self { lock: Some(lock), owner: std::process::id() }))
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

/// What a thread that forks has, from before the fork until after it, in both processes.
type Forking = (RwLockWriteGuard<'static, ()>, MutexGuard<'static, Vec<i32>>);

thread_local! {
    static FORKING: RefCell<Option<Forking>> = const { RefCell::new(None) };
}

/// To be called by the thread that forks, before it does: waits until no lock file is just being opened or closed, and lets
/// none be until [`fork_ended`] in the parent and [`close_inherited_locks`] in the child.
pub fn fork_begins() {
    let forking = (FORK.write().unwrap_or_else(PoisonError::into_inner), held());
    FORKING.set(Some(forking));
}

/// To be called by the thread that forked, in the parent.
pub fn fork_ended() {
    FORKING.take();
}

/// To be called in a forked child before anything else runs there: closes the inherited lock descriptors.
pub fn close_inherited_locks() {
    match FORKING.take() {
        Some((_, mut held)) => close_all(&mut held),
        None => close_all(&mut held()),
    }
}

#[cfg(not(unix))]
fn close_all(_: &mut Vec<i32>) {}

#[cfg(unix)]
#[allow(unsafe_code)]
fn close_all(held: &mut Vec<i32>) {
    for descriptor in held.drain(..) {
        // SAFETY: the descriptor belongs to a `LockFile` of a thread of the parent. A forked child has only the thread
        // that forked; the engine's calls run in threads of their own (`interruptible` in the binding, the pipeline), so
        // the `LockFile` is never used or dropped here, and closing its descriptor once takes it from nobody.
        unsafe {
            libc::close(descriptor);
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
        let inherited = LockFile::new(|| Ok(file.try_clone().unwrap())).unwrap();
        drop(file);
        let other = File::open(&path).unwrap();
        assert!(other.try_lock().is_err());
        // Not those of tests beside this one.
        let number = descriptor(inherited.file());
        held().retain(|&open| open != number);
        close_all(&mut vec![number]);
        other.try_lock().unwrap();
        // In a real child it is never dropped.
        std::mem::forget(inherited);
    }
}
