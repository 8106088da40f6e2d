//! Calls: what the file system is asked for.

use std::path::Path;

/// What the file system is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Call<'a> {
    CreateDir(&'a Path),
    Create(&'a Path),
    Open(&'a Path),
    Look(&'a Path),
    List(&'a Path),
    Read(&'a Path),
    Write { path: &'a Path, offset: u64, bytes: &'a [u8] },
    SetLength { path: &'a Path, length: u64 },
    Sync(&'a Path),
    SyncDir(&'a Path),
    Rename { from: &'a Path, to: &'a Path },
    Link { from: &'a Path, to: &'a Path },
    Remove(&'a Path),
    RemoveDir(&'a Path),
    Lock(&'a Path),
}
