//! All calls to the file system. Each goes through [`call()`], so that with the feature `faults` a test can watch,
//! refuse and record it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use call::Call;

pub(crate) mod call;
#[cfg(feature = "faults")]
pub mod faults;
pub(crate) mod lock;
pub(crate) mod names;
pub(crate) mod open_files;
pub(crate) mod temporary;
mod writeback;

/// Makes a call, and repeats it if a signal interrupts it (on network file systems, not only reads and writes are
/// interrupted).
fn call<T>(what: Call<'_>, mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        #[cfg(feature = "faults")]
        let result = faults::watched(&what, &mut action);
        #[cfg(not(feature = "faults"))]
        let (_, result) = (what, action());
        match result {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Makes a call that a test may skip.
fn command(what: Call<'_>, mut action: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    call(what, || {
        #[cfg(feature = "faults")]
        if faults::pretends(&what) {
            return Ok(());
        }
        action()
    })
}

/// Converts an error of `action` on `path`.
fn failed<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |e| Error::io(action, path, e)
}

/// Creates a folder and its parents, and flushes their entries, so that what is saved there is found after a crash.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    if exists(path)? {
        return Ok(());
    }
    create_dir(&parent(path))?;
    match make_dir(path) {
        Err(_) if path.is_dir() => Ok(()),
        other => other,
    }?;
    sync_dir(&parent(path))
}

/// Creates a folder in an existing one. Nothing is flushed.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    call(Call::CreateDir(path), || fs::create_dir(path)).map_err(failed("create the folder", path))
}

fn create_exclusively(path: &Path) -> io::Result<File> {
    call(Call::Create(path), || OpenOptions::new().read(true).write(true).create_new(true).open(path))
}

/// Creates a file for reading and writing. It must not exist.
pub(crate) fn create_new(path: &Path) -> Result<File> {
    create_exclusively(path).map_err(failed("create", path))
}

/// Like [`create_new`]; `None` if the file exists, or if its folder does not.
pub(crate) fn create_if_free(path: &Path) -> Result<Option<File>> {
    match create_exclusively(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(Error::io("create", path, e)),
    }
}

/// Creates an empty file exclusively. `false` if it exists.
pub(crate) fn claim(path: &Path) -> Result<bool> {
    match create_exclusively(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("create", path, e)),
    }
}

/// Whether a file or folder exists. If the operating system cannot tell, that is an error: a wrong "no" could cost
/// data.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    call(Call::Look(path), || path.try_exists()).map_err(failed("look at", path))
}

/// Whether a name is free. A dangling link takes its name, too.
pub(crate) fn is_free(path: &Path) -> Result<bool> {
    match call(Call::Look(path), || path.symlink_metadata()) {
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// The length of a file in bytes, 0 if it is not known. For estimates.
pub(crate) fn rough_length(path: &Path) -> u64 {
    call(Call::Look(path), || path.metadata()).map_or(0, |found| found.len())
}

/// The type of what is under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Something else, for example a link; or nothing, or the operating system cannot tell.
    Other,
}

/// The type of what is under a path. Links are not followed.
pub(crate) fn node(path: &Path) -> Node {
    match call(Call::Look(path), || path.symlink_metadata()) {
        Ok(found) if found.is_file() => Node::File,
        Ok(found) if found.is_dir() => Node::Folder,
        _ => Node::Other,
    }
}

/// The result of trying to lock a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lockable {
    /// The lock was free. Now the caller holds it.
    Free,
    /// Another open file holds the lock.
    Held,
    /// The file system cannot tell.
    Unknown,
}

/// Tries to lock an open file exclusively.
pub(crate) fn try_lock(file: &File, path: &Path) -> Lockable {
    let locked = command(Call::Lock(path), || match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(e)) => Err(e),
    });
    match locked {
        Ok(()) => Lockable::Free,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Lockable::Held,
        Err(_) => Lockable::Unknown,
    }
}

/// Opens a file to lock it. With `create` it is created if it does not exist. Links are not followed.
pub(crate) fn open_lock(path: &Path, create: bool) -> Result<File> {
    let what = if create { Call::Create(path) } else { Call::Open(path) };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    call(what, || options.open(path)).map_err(|e| not_found_or("open", path, e))
}

/// Opens a regular file for reading. Anything else is refused: reading a device or a pipe may never end.
pub(crate) fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = call(Call::Open(path), || options.open(path)).map_err(|e| not_found_or("open", path, e))?;
    match call(Call::Look(path), || file.metadata()) {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(Error::corrupt(format!("{} is not a regular file", path.display()))),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

fn not_found_or(action: &str, path: &Path, e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::NotFound {
        Error::not_found(format!("{} does not exist", path.display()))
    } else {
        Error::io(action, path, e)
    }
}

/// The length of an open file in bytes.
pub(crate) fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(call(Call::Look(path), || file.metadata()).map_err(failed("look at", path))?.len())
}

/// What distinguishes a file from another one under the same path: its time of modification and, on Unix, its device
/// and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    modified: Option<std::time::SystemTime>,
    place: (u64, u64),
}

/// The identity of an open file.
pub(crate) fn identity(file: &File, path: &Path) -> Result<Identity> {
    let found = call(Call::Look(path), || file.metadata()).map_err(failed("look at", path))?;
    #[cfg(unix)]
    let place = (std::os::unix::fs::MetadataExt::dev(&found), std::os::unix::fs::MetadataExt::ino(&found));
    #[cfg(not(unix))]
    let place = (0, 0);
    Ok(Identity { modified: found.modified().ok(), place })
}

/// Whether two folders are on the same file system, so that a file can be renamed from one to the other. `true` if
/// unknown.
pub(crate) fn on_one_disk(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (call(Call::Look(a), || a.metadata()), call(Call::Look(b), || b.metadata())) {
        return std::os::unix::fs::MetadataExt::dev(&a) == std::os::unix::fs::MetadataExt::dev(&b);
    }
    #[cfg(not(unix))]
    let _ = (a, b);
    true
}

/// Opens an existing file for writing.
pub(crate) fn open_to_write(path: &Path) -> Result<File> {
    call(Call::Open(path), || OpenOptions::new().write(true).open(path)).map_err(|e| not_found_or("open", path, e))
}

/// Sets the length of a file in bytes.
pub(crate) fn set_length(file: &File, path: &Path, length: u64) -> Result<()> {
    call(Call::SetLength { path, length }, || file.set_len(length)).map_err(failed("write", path))
}

/// Fills `buffer` with bytes of a file from `offset` on. A shorter file is damaged.
pub(crate) fn read_at(file: &File, path: &Path, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
    while !buffer.is_empty() {
        match read_some(path, || positional_read(file, buffer, offset)) {
            Ok(0) => {
                return Err(Error::corrupt(format!(
                    "{} ends at byte {offset}, {} more bytes were expected",
                    path.display(),
                    buffer.len()
                )));
            }
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
    Ok(())
}

fn read_some(path: &Path, action: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let result = call(Call::Read(path), action);
    #[cfg(feature = "faults")]
    result.iter().for_each(|&bytes| faults::has_read(path, bytes));
    result
}

#[cfg(unix)]
fn positional_read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn positional_read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Writes of at least this many bytes start the writeback to disk.
const EARLY: usize = 256 << 10;

/// Writes all of `buffer` at `offset`. If it is not small, the writeback to disk is started.
pub(crate) fn write_early(file: &File, path: &Path, buffer: &[u8], offset: u64) -> Result<()> {
    write_at(file, path, buffer, offset)?;
    if buffer.len() >= EARLY {
        writeback::begin(file, offset, buffer.len() as u64);
    }
    Ok(())
}

/// Writes all of `buffer` at `offset`.
pub(crate) fn write_at(file: &File, path: &Path, mut buffer: &[u8], mut offset: u64) -> Result<()> {
    while !buffer.is_empty() {
        match write_some(file, path, buffer, offset) {
            Ok(0) => return Err(Error::io("write", path, io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                buffer = &buffer[n..];
                offset += n as u64;
            }
            Err(e) => return Err(Error::io("write", path, e)),
        }
    }
    Ok(())
}

fn write_some(file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<usize> {
    #[cfg(feature = "faults")]
    let bytes = &bytes[..faults::limit(path, bytes.len())];
    call(Call::Write { path, offset, bytes }, || positional_write(file, bytes, offset))
}

/// A new file that is written from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Appended {
    file: File,
    path: PathBuf,
    end: u64,
}

impl Appended {
    /// Creates the file. It must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: create_new(path)?, path: path.to_owned(), end: 0 })
    }

    /// The open file.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = write_some(&self.file, &self.path, bytes, self.end)?;
        self.end += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
fn positional_write(file: &File, buffer: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, buffer, offset)
}

#[cfg(windows)]
fn positional_write(file: &File, buffer: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, buffer, offset)
}

/// Flushes a file to disk (fsync).
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    command(Call::Sync(path), || file.sync_all()).map_err(failed("flush", path))
}

/// Flushes the entries of a folder to disk. Does nothing where that is not possible (some file systems, Windows).
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    match command(Call::SyncDir(path), || File::open(path)?.sync_all()) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            Err(Error::io("flush", path, e))
        }
        _ => Ok(()),
    }
}

/// Like [`sync_dir`]; the folder need not exist.
pub(crate) fn sync_dir_if_any(path: &Path) -> Result<()> {
    if exists(path)? { sync_dir(path) } else { Ok(()) }
}

/// Renames a file or folder.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    call(Call::Rename { from, to }, || fs::rename(from, to)).map_err(failed("rename to", to))
}

/// Makes a hard link to a file. The new name must not exist, and the file system must support hard links.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    call(Call::Link { from, to }, || fs::hard_link(from, to)).map_err(failed("link to", to))
}

/// Deletes a file. It need not exist.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match call(Call::Remove(path), || fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Deletes a folder with everything in it. It need not exist.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match call(Call::RemoveDir(path), || fs::remove_dir_all(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// The names in a folder, in no order; none if the folder does not exist. Names that are not UTF-8 are not lamina's.
pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
    let names = || fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    match call(Call::List(path), names) {
        Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(Error::io("list", path, e)),
    }
}

/// Reads a small file. One of more than `limit` bytes is damaged.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = vec![];
    read_some(path, || (&file).take(limit + 1).read_to_end(&mut bytes)).map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::corrupt(format!("{} is longer than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// Like [`read_small`]; `None` if the file does not exist.
pub(crate) fn read_small_if_any(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read_small(path, limit) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Writes a small file atomically: temporary file, flush, rename, flush of the folder.
pub(crate) fn write_atomic(temp: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let result = write_synced(temp, bytes).and_then(|()| rename(temp, path));
    if result.is_err() {
        let _ = remove_file(temp);
    }
    result?;
    sync_dir(&parent(path))
}

/// Writes a new file and flushes it.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = create_new(path)?;
    write_at(&file, path, bytes, 0)?;
    sync(&file, path)
}

/// The folder of `path`; `.` if it has none.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    }
}
