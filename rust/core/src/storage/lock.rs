//! File locks.
//!
//! A forked child inherits the descriptors of locked files, and a lock is held until all of its descriptors are closed.
//! The worker of a data loader must not keep the session of a killed process alive, so a child closes them.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::Result;
use crate::storage::{self, Lockable};

/// The descriptors of the lock files that this process has open.
static HELD: Mutex<Vec<i32>> = Mutex::new(vec![]);

/// A fork holds this lock exclusively; whoever opens or closes a lock file shares it. So during a fork, [`HELD`] has
/// exactly the descriptors that are open. The number of a closed one could already belong to another file.
static FORK: RwLock<()> = RwLock::new(());

fn together() -> RwLockReadGuard<'static, ()> {
    FORK.read().unwrap_or_else(PoisonError::into_inner)
}

fn held() -> MutexGuard<'static, Vec<i32>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open lock file. A forked child closes its descriptor.
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
    /// Opens a lock file with `open`.
    pub(crate) fn new(open: impl FnOnce() -> Result<File>) -> Result<Self> {
        let _together = together();
        Ok(Self::of(open()?))
    }

    /// Like [`LockFile::new`]; `None` if `open` returns none.
    pub(crate) fn new_if(open: impl FnOnce() -> Result<Option<File>>) -> Result<Option<Self>> {
        let _together = together();
        Ok(open()?.map(Self::of))
    }

    fn of(file: File) -> Self {
        held().push(descriptor(&file));
        Self { file: Some(file) }
    }

    /// The open file.
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

/// Tries to lock a file. The lock is held until the returned file is dropped.
pub(crate) fn try_lock(path: &Path) -> (Lockable, Option<LockFile>) {
    let Ok(lock) = LockFile::new(|| storage::open_lock(path, false)) else { return (Lockable::Unknown, None) };
    let told = storage::try_lock(lock.file(), path);
    (told, Some(lock).filter(|_| told == Lockable::Free))
}

/// Locks a file that was just created. `None` if a sweep took it for that of a dead process; then use another name.
pub(crate) fn hold(lock: LockFile, path: &Path) -> Result<Option<LockFile>> {
    if storage::try_lock(lock.file(), path) == Lockable::Held {
        return Ok(None);
    }
    Ok(storage::exists(path)?.then_some(lock))
}

/// Takes the lock of a session, or another folder, whose process has ended; `None` if it is alive. If the lock file is
/// missing after a crash, it is created exclusively: whoever is just about to begin a session in this folder then uses
/// another name.
pub(crate) fn dead(path: &Path) -> Option<LockFile> {
    if let Ok(Some(lock)) = LockFile::new_if(|| storage::create_if_free(path)) {
        return (storage::try_lock(lock.file(), path) == Lockable::Free).then_some(lock);
    }
    try_lock(path).1
}

/// A claim: says that a living process is working on something. It ends when it is dropped, or when the process ends.
#[derive(Debug)]
pub struct Claim {
    lock: Option<LockFile>,
    owner: u32,
}

impl Claim {
    /// Takes the claim whose lock file is `path`; `None` if another process has it. On a file system without locks
    /// everybody gets it.
    ///
    /// # Errors
    /// `Io` or `NotFound` if the lock file cannot be opened or created.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        let lock = LockFile::new(|| storage::open_lock(path, true))?;
        let free = storage::try_lock(lock.file(), path) != Lockable::Held;
        Ok(free.then(|| Self { lock: Some(lock), owner: std::process::id() }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            // This is the copy in a forked child. `close_inherited_locks` has closed its descriptor.
            std::mem::forget(self.lock.take());
        }
    }
}

/// The locks that the forking thread holds from before the fork until after it, in both processes.
type Forking = (RwLockWriteGuard<'static, ()>, MutexGuard<'static, Vec<i32>>);

thread_local! {
    static FORKING: RefCell<Option<Forking>> = const { RefCell::new(None) };
}

/// Call it before a fork, in the forking thread. It waits until no lock file is being opened or closed, and prevents
/// that until [`fork_ended`] is called in the parent and [`close_inherited_locks`] in the child.
pub fn fork_begins() {
    let forking = (FORK.write().unwrap_or_else(PoisonError::into_inner), held());
    FORKING.set(Some(forking));
}

/// Call it after a fork, in the forking thread of the parent.
pub fn fork_ended() {
    FORKING.take();
}

/// Call it in a forked child, before anything else runs there. It closes the inherited lock files.
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
        // SAFETY: the descriptor belongs to a `LockFile` of a thread of the parent. A forked child has only the forking
        // thread. The engine's calls run in threads of their own (`interruptible` in the binding, the pipeline), so
        // here the `LockFile` is never used or dropped, and nobody else closes the descriptor.
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
