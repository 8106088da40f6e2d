//! Calls to the file system.

use std::path::Path;

/// A call to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    /// Create a folder.
    CreateDir(&'a Path),
    /// Create a file, or open one to lock it.
    Create(&'a Path),
    /// Open a file.
    Open(&'a Path),
    /// Read the metadata of a file or folder.
    Look(&'a Path),
    /// List the names in a folder.
    List(&'a Path),
    /// Read from a file.
    Read(&'a Path),
    /// Write bytes at an offset of a file.
    Write {
        /// The file.
        path: &'a Path,
        /// The first byte.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Set the length of a file in bytes.
    SetLength {
        /// The file.
        path: &'a Path,
        /// The new length.
        length: u64,
    },
    /// Flush a file to disk.
    Sync(&'a Path),
    /// Flush the entries of a folder to disk.
    SyncDir(&'a Path),
    /// Rename a file or folder.
    Rename {
        /// The old path.
        from: &'a Path,
        /// The new path.
        to: &'a Path,
    },
    /// Make a hard link.
    Link {
        /// The old path.
        from: &'a Path,
        /// The new path.
        to: &'a Path,
    },
    /// Delete a file.
    Remove(&'a Path),
    /// Delete a folder with everything in it.
    RemoveDir(&'a Path),
    /// Try to lock a file.
    Lock(&'a Path),
}
