//! Temporary files and folders with hidden names, beside the path to which they are renamed.
//!
//! A killed process leaves them behind, possibly gigabytes. The process that makes one holds its lock until it is
//! renamed or removed. So a temporary file whose lock is free is abandoned, and the next save into the same folder
//! removes it. Neither clocks nor process ids are used: another process or machine may have the same id.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::storage::lock::{LockFile, dead, hold, try_lock};
use crate::storage::names::{is_random_name, random_name};
use crate::storage::{self, Lockable, Node};

/// The name of the lock file in a temporary folder. No file of a model has it.
const LOCK: &str = ".lamina-lock";

/// A locked temporary file or folder. Dropping it removes it.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    lock: Option<LockFile>,
    folder: bool,
    owner: u32,
}

impl Temporary {
    /// Creates an empty file in the folder `place`.
    pub(crate) fn file(place: &Path) -> Result<Self> {
        draw(place, |path| {
            let lock = hold(LockFile::new(|| storage::create_new(&path))?, &path)?;
            Ok(lock.map(|lock| Self::new(path, lock, false)))
        })
    }

    /// Creates a folder in the folder `place`.
    ///
    /// # Errors
    /// `Io` if it cannot be created.
    pub fn folder(place: &Path) -> Result<Self> {
        draw(place, |path| {
            storage::make_dir(&path)?;
            let lock = path.join(LOCK);
            let Some(made) = LockFile::new_if(|| storage::create_if_free(&lock))? else { return Ok(None) };
            Ok(hold(made, &lock)?.map(|lock| Self::new(path, lock, true)))
        })
    }

    fn new(path: PathBuf, lock: LockFile, folder: bool) -> Self {
        Self { path, lock: Some(lock), folder, owner: std::process::id() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file; for a folder, its lock file.
    pub(crate) fn opened(&self) -> &File {
        self.lock.as_ref().expect("held until it is dropped").file()
    }

    /// Renames it. Its lock is held until then.
    pub(crate) fn rename_to(mut self, target: &Path) -> Result<()> {
        storage::rename(&self.path, target)?;
        self.path.clear();
        Ok(())
    }

    /// Removes what dead processes have left in the same folder. What cannot be removed, for example that of another
    /// user, stays.
    pub fn sweep(&self) {
        let place = storage::parent(&self.path);
        let names = storage::list(&place).unwrap_or_default();
        let left = names.iter().filter(|name| is_ours(name)).map(|name| place.join(name)).filter(|p| *p != self.path);
        let mut left = left.peekable();
        if left.peek().is_some() && self.locks_work() {
            left.for_each(|path| remove_if_dead(&path));
        }
    }

    /// Whether file locks work: its own lock must look held. Else a free lock means nothing.
    fn locks_work(&self) -> bool {
        let lock = if self.folder { self.path.join(LOCK) } else { self.path.clone() };
        try_lock(&lock).0 == Lockable::Held
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            // This is the copy in a forked child. `close_inherited_locks` has closed its descriptor.
            std::mem::forget(self.lock.take());
        } else if !self.path.as_os_str().is_empty() {
            let _ = if self.folder { storage::remove_dir(&self.path) } else { storage::remove_file(&self.path) };
        }
    }
}

/// Tries names until one works: the sweep of another process may remove what is just being created.
fn draw(place: &Path, mut make: impl FnMut(PathBuf) -> Result<Option<Temporary>>) -> Result<Temporary> {
    for _ in 0..8 {
        if let Some(made) = make(place.join(format!(".lamina-{}.tmp", random_name())))? {
            return Ok(made);
        }
    }
    Err(Error::io("make a temporary file in", place, std::io::ErrorKind::WouldBlock.into()))
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(".lamina-").and_then(|n| n.strip_suffix(".tmp")).is_some_and(is_random_name)
}

fn remove_if_dead(path: &Path) {
    let _ = match storage::node(path) {
        Node::File => try_lock(path).1.map(|_held| storage::remove_file(path)),
        Node::Folder => dead(&path.join(LOCK)).map(|_held| storage::remove_dir(path)),
        Node::Other => None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: &str = ".lamina-0123456789abcdef0123456789abcdef.tmp";

    fn names(folder: &Path) -> Vec<String> {
        let mut names = storage::list(folder).unwrap();
        names.sort();
        names
    }

    #[test]
    fn what_the_dead_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(DEAD), "x").unwrap();
        let folder = place.path().join(DEAD.replace('0', "f"));
        std::fs::create_dir_all(folder.join("inner")).unwrap();
        std::fs::write(folder.join("inner/big"), "x").unwrap();
        let made = Temporary::file(place.path()).unwrap();
        made.sweep();
        assert_eq!(names(place.path()), [made.path().file_name().unwrap().to_str().unwrap()]);
        drop(made);
        assert_eq!(names(place.path()), [""; 0]);
    }

    #[test]
    fn what_the_living_hold_stays() {
        let place = tempfile::tempdir().unwrap();
        let (file, folder) = (Temporary::file(place.path()).unwrap(), Temporary::folder(place.path()).unwrap());
        let third = Temporary::file(place.path()).unwrap();
        third.sweep();
        folder.sweep();
        assert_eq!(names(place.path()).len(), 3);
        file.rename_to(&place.path().join("kept")).unwrap();
        drop((folder, third));
        assert_eq!(names(place.path()), ["kept"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_ours_stays() {
        let place = tempfile::tempdir().unwrap();
        let others = [
            ".0123456789abcdef0123456789abcdef.tmp",
            ".lamina-0123456789ABCDEF0123456789ABCDEF.tmp",
            ".lamina-0123456789abcdef0123456789abcdef",
            ".lamina-bench-x",
            "lamina-0123456789abcdef0123456789abcdef.tmp",
            "plain",
        ];
        others.iter().for_each(|name| std::fs::write(place.path().join(name), "x").unwrap());
        std::os::unix::fs::symlink("plain", place.path().join(DEAD)).unwrap();
        let made = Temporary::folder(place.path()).unwrap();
        made.sweep();
        drop(made);
        assert_eq!(names(place.path()).len(), others.len() + 1);
        assert!(place.path().join("plain").exists());
    }

    #[test]
    fn one_that_loses_its_name_is_made_again() {
        let place = tempfile::tempdir().unwrap();
        let mut attempts = 0;
        let made = draw(place.path(), |path| {
            attempts += 1;
            let file = LockFile::new(|| storage::create_new(&path))?;
            if attempts == 1 {
                remove_if_dead(&path);
            }
            Ok(hold(file, &path)?.map(|lock| Temporary::new(path, lock, false)))
        });
        assert!(made.unwrap().path().exists());
        assert_eq!(attempts, 2);
        assert!(Temporary::file(&place.path().join("no")).is_err());
        assert!(Temporary::folder(&place.path().join("no")).is_err());
    }
}
