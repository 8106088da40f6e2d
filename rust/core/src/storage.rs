//! All calls to the file system, so that there is one place to look at, and one to make fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Makes the error of `action` on `path`.
fn failed<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |e| Error::io(action, path, &e)
}

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(failed("create the folder", path))
}

/// Creates a new file for writing and reading; it must not exist.
pub fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed("create", path))
}

/// Creates an empty file exclusively; `false` if the name is taken.
pub fn claim(path: &Path) -> Result<bool> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("create", path, &e)),
    }
}

/// Opens a regular file for reading. Of anything else, an end may never come: a device, a pipe that nobody writes to.
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| not_found_or("open", path, &e))?;
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(Error::corrupt(format!("{} is not a regular file", path.display()))),
        Err(e) => Err(Error::io("look at", path, &e)),
    }
}

fn not_found_or(action: &str, path: &Path, e: &io::Error) -> Error {
    if e.kind() == io::ErrorKind::NotFound {
        Error::not_found(format!("{} does not exist", path.display()))
    } else {
        Error::io(action, path, e)
    }
}

/// Length of an open file.
pub fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(failed("look at", path))?.len())
}

/// Fills `buffer` from `offset`; a file that ends before is damaged.
pub fn read_at(file: &File, path: &Path, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
    while !buffer.is_empty() {
        match positional_read(file, buffer, offset) {
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
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", path, &e)),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn positional_read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn positional_read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Writes all of `buffer` at `offset`.
pub fn write_at(file: &File, path: &Path, mut buffer: &[u8], mut offset: u64) -> Result<()> {
    while !buffer.is_empty() {
        match positional_write(file, buffer, offset) {
            Ok(0) => return Err(Error::io("write", path, &io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                buffer = &buffer[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("write", path, &e)),
        }
    }
    Ok(())
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
pub fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(failed("flush", path))
}

/// Flushes a folder's entries to the disk; where folders cannot be flushed (some file systems, Windows) this does nothing.
pub fn sync_dir(path: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let folder = File::open(path).map_err(failed("open", path))?;
    match folder.sync_all() {
        Ok(()) => Ok(()),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(Error::io("flush", path, &e)),
    }
}

/// Renames a file or folder.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(failed("rename to", to))
}

/// Deletes a file; one that is gone already is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path, &e)),
        _ => Ok(()),
    }
}

/// Deletes a folder with all that is in it; one that is gone already is no error.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", path, &e)),
        _ => Ok(()),
    }
}

/// Names in a folder, in no order; none if the folder does not exist. Names that are not UTF-8 are not ours.
pub fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("list", path, &e)),
    };
    let mut names = vec![];
    for entry in entries {
        let entry = entry.map_err(failed("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// A whole small file; longer than `limit` is refused as damaged.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = vec![];
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::corrupt(format!("{} is longer than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// The same, `None` if the file does not exist.
pub fn read_small_if_any(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read_small(path, limit) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Writes a small file so that it is there whole or not at all: temporary file in `temp_dir`, flush, rename, flush.
pub fn write_atomic(temp_dir: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = temp_dir.join(format!(".{}.tmp", crate::digest::random_name()));
    let result = write_synced(&temp, bytes).and_then(|()| rename(&temp, path));
    if result.is_err() {
        let _ = fs::remove_file(&temp);
    }
    result?;
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Writes and flushes a new file.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes).map_err(failed("write", path))?;
    sync(&file, path)
}

/// The folder that `path` stands in.
pub fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    }
}
