//! Sessions and locks: how saves and prunes can run at the same time (docs/format.md §9).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::repository::paths::Paths;
use crate::storage::lock::{LockFile, dead, hold, try_lock};
use crate::storage::names::{is_random_name, random_name};
use crate::storage::{self, Lockable, Node};

/// The session of a running save: a locked folder for its temporary files. Dropping the session removes the folder.
#[derive(Debug)]
pub struct Session {
    name: String,
    folder: PathBuf,
    lock: Option<LockFile>,
    locks_work: bool,
}

impl Session {
    /// Begins a session. Its folder becomes visible only after its lock is held.
    ///
    /// # Errors
    /// `Io` if the folder cannot be created.
    pub fn begin(repository: &Path) -> Result<Self> {
        let sessions = Paths::new(repository).sessions();
        storage::create_dir(&sessions)?;
        // Before the lock is held, the sweep of another process may take the folder for a dead session. Then try
        // another name.
        (0..8)
            .find_map(|_| Self::try_begin(&sessions).transpose())
            .unwrap_or_else(|| Err(Error::io("begin a session in", &sessions, std::io::ErrorKind::WouldBlock.into())))
    }

    fn try_begin(sessions: &Path) -> Result<Option<Self>> {
        let name = random_name();
        let (early, folder) = (sessions.join(format!(".{name}")), sessions.join(&name));
        storage::make_dir(&early)?;
        let mut session = Self { name, folder: early, lock: None, locks_work: false };
        let path = session.folder.join("lock");
        let Some(made) = LockFile::new_if(|| storage::create_if_free(&path))? else { return Ok(None) };
        let Some(lock) = hold(made, &path)? else { return Ok(None) };
        session.lock = Some(lock);
        session.locks_work = try_lock(&path).0 == Lockable::Held;
        storage::rename(&session.folder, &folder)?;
        session.folder = folder;
        Ok(Some(session))
    }

    /// The name of the session.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the session, for temporary files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of a temporary file in the folder.
    pub(crate) fn temp(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.tmp"))
    }

    /// Whether file locks work on this file system.
    pub(crate) fn locks_work(&self) -> bool {
        self.locks_work
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = storage::remove_dir(&self.folder);
        self.lock = None;
    }
}

/// The names of the sessions that are running, or may be, sorted.
///
/// # Errors
/// `Io` if the folder of sessions cannot be read.
pub fn alive(repository: &Path) -> Result<Vec<String>> {
    let sessions = Paths::new(repository).sessions();
    let mut names: Vec<_> = storage::list(&sessions)?.into_iter().filter(|n| !n.starts_with('.')).collect();
    names.retain(|name| is_alive(repository, name));
    names.sort();
    Ok(names)
}

/// Whether the session may still be running. `true` if the operating system cannot tell.
pub(crate) fn is_alive(repository: &Path, name: &str) -> bool {
    let lock = Paths::new(repository).session_lock(name);
    // A folder without a lock file is being removed by its owner.
    storage::exists(&lock).unwrap_or(true) && try_lock(&lock).0 != Lockable::Free
}

/// Removes the folders of sessions whose process has ended, as far as possible. Only call it where file locks work.
pub(crate) fn sweep(repository: &Path) -> Result<()> {
    let sessions = Paths::new(repository).sessions();
    for name in storage::list(&sessions)?.iter().filter(|name| is_ours(name)) {
        let folder = sessions.join(name);
        // A link is not a session, and must not be followed.
        if storage::node(&folder) != Node::Folder {
            continue;
        }
        // A folder that cannot be removed, for example that of another user, does no harm.
        if let Some(_held) = dead(&folder.join("lock")) {
            let _ = storage::remove_dir(&folder);
        }
    }
    Ok(())
}

/// Whether a folder of this name is a session, or one that is just beginning.
fn is_ours(name: &str) -> bool {
    is_random_name(name.strip_prefix('.').unwrap_or(name))
}

/// How long a prune waits for the prune lock.
const SHORT: Duration = Duration::from_millis(300);
/// How long the setter of an alias waits for it.
const LONG: Duration = Duration::from_secs(10);
/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// The prune lock. A prune holds it, and whoever sets an alias: a snapshot must not be deleted while it gets an alias.
#[derive(Debug)]
pub(crate) struct PruneLock {
    _file: LockFile,
}

impl PruneLock {
    /// Takes the lock for a prune.
    ///
    /// # Errors
    /// `Busy` if another process holds it, `Unsupported` if locks do not work on this file system.
    pub(crate) fn take(repository: &Path) -> Result<Self> {
        Self::take_within(repository, SHORT)
    }

    /// Takes the lock for a moment, to set an alias. `None` if locks do not work on this file system: then there is no
    /// prune either.
    ///
    /// # Errors
    /// `Busy` if a prune holds it for more than 10 s.
    pub(crate) fn share(repository: &Path) -> Result<Option<Self>> {
        match Self::take_within(repository, LONG) {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
            other => other.map(Some),
        }
    }

    fn take_within(repository: &Path, patience: Duration) -> Result<Self> {
        let end = Instant::now() + patience;
        loop {
            match Self::try_take(repository) {
                Err(e) if e.kind() == ErrorKind::Busy && Instant::now() < end => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
    }

    fn try_take(repository: &Path) -> Result<Self> {
        let path = Paths::new(repository).prune_lock();
        let lock = LockFile::new(|| storage::open_lock(&path, true))?;
        match storage::try_lock(lock.file(), &path) {
            Lockable::Free if try_lock(&path).0 == Lockable::Held => Ok(Self { _file: lock }),
            Lockable::Held => Err(Error::busy(format!("another prune of {} is running", repository.display()))),
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
        let folder = root.path().join("sessions/0123456789abcdef0123456789abcdef");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("lock"), "").unwrap();
        std::fs::write(folder.join("left.tmp"), "x").unwrap();
        assert!(alive(root.path()).unwrap().is_empty());
        let foreign = root.path().join("sessions/team");
        std::fs::create_dir(&foreign).unwrap();
        sweep(root.path()).unwrap();
        assert!(!folder.exists());
        assert!(foreign.exists());
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
