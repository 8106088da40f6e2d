//! All calls to the file system, so that there is one place to look at, and one to make fail: each goes through [`call`],
//! which the feature `faults` lets a test watch, refuse and record.

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

/// Makes a call; one that a signal interrupted is made again (network file systems interrupt more than reads and writes).
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

/// The same for a call that a test may leave out.
fn command(what: Call<'_>, mut action: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    call(what, || {
        #[cfg(feature = "faults")]
        if faults::pretends(&what) {
            return Ok(());
        }
        action()
    })
}

/// Makes the error of `action` on `path`.
fn failed<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |e| Error::io(action, path, e)
}

/// Creates a folder and its parents, and flushes the entries of those that it made: what is saved there must be found again.
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

/// Creates one folder, in one that exists. Nothing is flushed.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    call(Call::CreateDir(path), || fs::create_dir(path)).map_err(failed("create the folder", path))
}

fn create_exclusively(path: &Path) -> io::Result<File> {
    call(Call::Create(path), || OpenOptions::new().read(true).write(true).create_new(true).open(path))
}

/// Creates a new file for writing and reading; it must not exist.
pub(crate) fn create_new(path: &Path) -> Result<File> {
    create_exclusively(path).map_err(failed("create", path))
}

/// The same, `None` if the name is taken or its folder is gone.
pub(crate) fn create_if_free(path: &Path) -> Result<Option<File>> {
    match create_exclusively(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => Ok(None),
        Err(e) => Err(Error::io("create", path, e)),
    }
}

/// Creates an empty file exclusively; `false` if the name is taken.
pub(crate) fn claim(path: &Path) -> Result<bool> {
    match create_exclusively(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("create", path, e)),
    }
}

/// Whether there is a file or folder of this name. Where the system cannot tell this is an error: "no" may cost data.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    call(Call::Look(path), || path.try_exists()).map_err(failed("look at", path))
}

/// Whether a name is free, also of a link that leads nowhere.
pub(crate) fn is_free(path: &Path) -> Result<bool> {
    match call(Call::Look(path), || path.symlink_metadata()) {
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// Length of what stands under a name, 0 where that cannot be told: for estimates.
pub(crate) fn rough_length(path: &Path) -> u64 {
    call(Call::Look(path), || path.metadata()).map_or(0, |found| found.len())
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// Something else, a link too; or nothing, or the system cannot tell.
    Other,
}

/// What stands under this name; links are not followed.
pub(crate) fn node(path: &Path) -> Node {
    match call(Call::Look(path), || path.symlink_metadata()) {
        Ok(found) if found.is_file() => Node::File,
        Ok(found) if found.is_dir() => Node::Folder,
        _ => Node::Other,
    }
}

/// What a try to lock a file told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lockable {
    /// Nobody held it; now the caller does.
    Free,
    /// Somebody holds it.
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

/// Opens a file in order to lock it, and makes it where `create` says so; not where a link would have it made.
pub(crate) fn open_lock(path: &Path, create: bool) -> Result<File> {
    let what = if create { Call::Create(path) } else { Call::Open(path) };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    call(what, || options.open(path)).map_err(|e| not_found_or("open", path, e))
}

/// Opens a regular file for reading. Of anything else, an end may never come: a device, a pipe that nobody writes to.
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

/// Length of an open file.
pub(crate) fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(call(Call::Look(path), || file.metadata()).map_err(failed("look at", path))?.len())
}

/// What tells a file from another that has taken its name: when it was changed, and on Unix its disk and number there.
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

/// Whether a file can be renamed from one folder to the other; yes where the system does not say.
pub(crate) fn on_one_disk(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (call(Call::Look(a), || a.metadata()), call(Call::Look(b), || b.metadata())) {
        return std::os::unix::fs::MetadataExt::dev(&a) == std::os::unix::fs::MetadataExt::dev(&b);
    }
    #[cfg(not(unix))]
    let _ = (a, b);
    true
}

/// Opens a file that is there for writing.
pub(crate) fn open_to_write(path: &Path) -> Result<File> {
    call(Call::Open(path), || OpenOptions::new().write(true).open(path)).map_err(|e| not_found_or("open", path, e))
}

/// Gives a file its length.
pub(crate) fn set_length(file: &File, path: &Path, length: u64) -> Result<()> {
    call(Call::SetLength { path, length }, || file.set_len(length)).map_err(failed("write", path))
}

/// Fills `buffer` from `offset`; a file that ends before is damaged.
pub(crate) fn read_at(file: &File, path: &Path, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
    while !buffer.is_empty() {
        match read_some(path, || positional_read(file, buffer, offset)) {
            Ok(0) => {
                return Err(Error::corrupt(format!(
                    "{} ends at byte {offset}, {} more were expected",
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

/// Parts of a file that are worth a call to the disk of their own.
const EARLY: usize = 256 << 10;

/// Writes all of `buffer` at `offset`, and has the disk begin with it if it is not small.
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

/// A new file that is written from front to back.
#[derive(Debug)]
pub(crate) struct Appended {
    file: File,
    path: PathBuf,
    end: u64,
}

impl Appended {
    /// Creates it; it must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: create_new(path)?, path: path.to_owned(), end: 0 })
    }

    /// The file.
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

/// Flushes a file's bytes to the disk.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    command(Call::Sync(path), || file.sync_all()).map_err(failed("flush", path))
}

/// Flushes a folder's entries to the disk; where folders cannot be flushed (some file systems, Windows) this does nothing.
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

/// The same for a folder that need not exist.
pub(crate) fn sync_dir_if_any(path: &Path) -> Result<()> {
    if exists(path)? { sync_dir(path) } else { Ok(()) }
}

/// Renames a file or folder.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    call(Call::Rename { from, to }, || fs::rename(from, to)).map_err(failed("rename to", to))
}

/// Gives a file a second name, where the file system has such; no name is taken from another file.
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    call(Call::Link { from, to }, || fs::hard_link(from, to)).map_err(failed("link to", to))
}

/// Deletes a file; one that is gone already is no error.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match call(Call::Remove(path), || fs::remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Deletes a folder with all that is in it; one that is gone already is no error.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match call(Call::RemoveDir(path), || fs::remove_dir_all(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path, e)),
        _ => Ok(()),
    }
}

/// Names in a folder, in no order; none if the folder does not exist. Names that are not UTF-8 are not ours.
pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
    let names = || fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    match call(Call::List(path), names) {
        Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(Error::io("list", path, e)),
    }
}

/// A whole small file; longer than `limit` is refused as damaged.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = vec![];
    read_some(path, || (&file).take(limit + 1).read_to_end(&mut bytes)).map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::corrupt(format!("{} is longer than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// The same, `None` if the file does not exist.
pub(crate) fn read_small_if_any(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read_small(path, limit) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Writes a small file so that it is there whole or not at all: temporary file, flush, rename, flush.
pub(crate) fn write_atomic(temp: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let result = write_synced(temp, bytes).and_then(|()| rename(temp, path));
    if result.is_err() {
        let _ = remove_file(temp);
    }
    result?;
    sync_dir(&parent(path))
}

/// Writes and flushes a new file.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = create_new(path)?;
    write_at(&file, path, bytes, 0)?;
    sync(&file, path)
}

/// The folder that `path` stands in.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    }
}
