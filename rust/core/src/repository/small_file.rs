//! Small files of a repository: JSON in an envelope (docs/format.md §4).

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{ErrorKind, Result};
use crate::format::envelope;
use crate::format::limits::MAX_JSON;
use crate::storage;

/// The body of a file of this kind; `None` if the file does not exist.
pub(super) fn read(path: &Path, kind: &str) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = storage::read_small_if_any(path, MAX_JSON)? else { return Ok(None) };
    Ok(Some(envelope::unseal(&bytes, kind, &path.display().to_string())?.1))
}

/// Whether the file exists and is damaged. A file of a newer version is not damaged.
pub(super) fn is_damaged(path: &Path, kind: &str) -> Result<bool> {
    match read(path, kind) {
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(true),
        Err(e) if e.kind() == ErrorKind::Io => Err(e),
        _ => Ok(false),
    }
}
