//! Sessions and locks: how saves and prune stay out of each other's way (docs/format.md §9).

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::digest::random_name;
use crate::error::{Error, Result};
use crate::fork::LockFile;
use crate::storage;

/// A save under way: a locked folder that holds its temporary files. Dropping it removes the folder.
#[derive(Debug)]
pub struct Session {
    name: String,
    folder: PathBuf,
    lock: Option<LockFile>,
    locks_work: bool,
}

/// What a try to lock a file told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockable {
    /// Nobody holds it.
    Free,
    /// Somebody holds it.
    Held,
    /// The file system cannot tell.
    Unknown,
}

fn try_lock(path: &Path) -> (Lockable, Option<File>) {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return (Lockable::Unknown, None) };
    match file.try_lock() {
        Ok(()) => (Lockable::Free, Some(file)),
        Err(TryLockError::WouldBlock) => (Lockable::Held, None),
        Err(TryLockError::Error(_)) => (Lockable::Unknown, None),
    }
}

impl Session {
    /// Begins a session: the folder gets its name only once its lock is held.
    pub fn begin(repository: &Path) -> Result<Self> {
        let sessions = repository.join("sessions");
        storage::create_dir(&sessions)?;
        // Another process that sweeps may take the folder for a dead one before its lock is held; then draw again.
        (0..8)
            .find_map(|_| Self::try_begin(&sessions).transpose())
            .unwrap_or_else(|| Err(Error::io("begin a session in", &sessions, &std::io::ErrorKind::WouldBlock.into())))
    }

    fn try_begin(sessions: &Path) -> Result<Option<Self>> {
        let name = random_name();
        let (early, folder) = (sessions.join(format!(".{name}")), sessions.join(&name));
        storage::create_dir(&early)?;
        let mut session = Self { name, folder: early, lock: None, locks_work: false };
        let path = session.folder.join("lock");
        let lock = LockFile::new(storage::create_new(&path)?);
        match lock.file().try_lock() {
            Ok(()) => session.locks_work = try_lock(&path).0 == Lockable::Held,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(_)) => {}
        }
        session.lock = Some(lock);
        if !session.folder.exists() {
            return Ok(None);
        }
        storage::rename(&session.folder, &folder)?;
        session.folder = folder;
        Ok(Some(session))
    }

    /// The session's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder, for temporary files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether locks do on this file system what they should.
    pub fn locks_work(&self) -> bool {
        self.locks_work
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = storage::remove_dir(&self.folder);
        self.lock = None;
    }
}

/// Sessions of a repository that another process holds, or may hold.
pub fn alive(repository: &Path) -> Result<Vec<String>> {
    let sessions = repository.join("sessions");
    let mut names: Vec<_> = storage::list(&sessions)?.into_iter().filter(|n| !n.starts_with('.')).collect();
    names.retain(|name| is_alive(repository, name));
    names.sort();
    Ok(names)
}

/// Whether the session may still be under way.
pub fn is_alive(repository: &Path, name: &str) -> bool {
    let folder = repository.join("sessions").join(name);
    let lock = folder.join("lock");
    // A folder without a lock file is being removed by its owner, who needs it no more.
    lock.exists() && try_lock(&lock).0 != Lockable::Free
}

/// Removes the folders of sessions whose process is gone. Only where locks work.
pub fn sweep(repository: &Path) -> Result<()> {
    let sessions = repository.join("sessions");
    for name in storage::list(&sessions)? {
        let folder = sessions.join(&name);
        if let (Lockable::Free, Some(_held)) = try_lock(&folder.join("lock")) {
            storage::remove_dir(&folder)?;
        }
    }
    Ok(())
}

/// The lock that only one prune holds.
#[derive(Debug)]
pub struct PruneLock {
    _file: File,
}

impl PruneLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// `Io` where another prune holds it, `Unsupported` where locks do not work on this file system.
    pub fn take(repository: &Path) -> Result<Self> {
        let path = repository.join("prune.lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| Error::io("open", &path, &e))?;
        match file.try_lock() {
            Ok(()) if try_lock(&path).0 == Lockable::Held => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::io("lock", &path, &std::io::ErrorKind::WouldBlock.into())
                .context("another prune of this repository is running")),
            _ => Err(Error::unsupported(format!(
                "file locks do not work in {}; prune needs them and has deleted nothing. Prune from a machine where the \
                 repository is on a local disk",
                repository.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_seen_while_they_live() {
        let root = tempfile::tempdir().unwrap();
        let session = Session::begin(root.path()).unwrap();
        assert!(session.locks_work());
        assert_eq!(alive(root.path()).unwrap(), [session.name().to_owned()]);
        sweep(root.path()).unwrap();
        assert!(session.folder().exists());
        let folder = session.folder().to_owned();
        drop(session);
        assert!(!folder.exists());
        assert!(alive(root.path()).unwrap().is_empty());
    }

    #[test]
    fn dead_sessions_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sessions/0123");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("lock"), "").unwrap();
        std::fs::write(folder.join("left.tmp"), "x").unwrap();
        assert!(alive(root.path()).unwrap().is_empty());
        sweep(root.path()).unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn one_prune_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let lock = PruneLock::take(root.path()).unwrap();
        assert!(PruneLock::take(root.path()).is_err());
        drop(lock);
        PruneLock::take(root.path()).unwrap();
    }
}
