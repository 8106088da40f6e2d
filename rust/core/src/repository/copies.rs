//! Copies: other repositories and artifact directories that may hold what a repository has lost.

use std::path::Path;
use std::sync::Arc;

use crate::chunks::placement::{Pack, Placement};
use crate::chunks::read::Chunks;
use crate::error::{ErrorKind, Result};
use crate::format::digest::{Digest, PackName};
use crate::format::envelope;
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::Snapshot;
use crate::repository::Repository;
use crate::repository::paths::{Paths, small_files, snapshot_number};
use crate::storage;

/// A folder that may hold what the repository has lost: another repository, or an artifact directory.
pub(crate) struct Source {
    pub(crate) paths: Paths,
    pub(super) id: Option<String>,
    pub(crate) chunks: Chunks,
}

impl Source {
    /// Reads what can be read; a source may be damaged too.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let paths = Paths::new(folder);
        let mut placement = Placement::default();
        for name in paths.pack_names()? {
            match Pack::read(&paths.pack(&name), name) {
                Ok(pack) => placement.insert(pack),
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                Err(_) => {}
            }
        }
        let id = Repository::open(folder).ok().map(|r| r.id().to_owned());
        let chunks = Chunks::new(Arc::new(placement), paths.packs());
        Ok(Self { paths, id, chunks })
    }

    /// The bytes of the snapshot file with this digest, or of that number if this is a copy of the repository `id`.
    fn snapshot(&self, digest: Option<Digest>, number: u64, id: &str) -> Result<Option<Vec<u8>>> {
        let same = self.id.as_deref() == Some(id);
        let numbered = self.paths.snapshot(number);
        let mut paths = vec![self.paths.artifact()];
        paths.extend(small_files(&self.paths.snapshots())?);
        for path in paths {
            let Ok(bytes) = storage::read_small(&path, MAX_JSON) else { continue };
            let Ok((found, _)) = envelope::unseal(&bytes, "snapshot", "") else { continue };
            let counterpart = same && path == numbered;
            if Some(found) == digest || counterpart {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// The file of the snapshot with this id: its bytes and its number.
    pub(super) fn file_of(&self, id: &str) -> Option<(Vec<u8>, u64)> {
        let names = storage::list(&self.paths.snapshots()).ok()?;
        names.iter().filter_map(|name| snapshot_number(name)).find_map(|number| {
            let bytes = storage::read_small(&self.paths.snapshot(number), MAX_JSON).ok()?;
            let found = Snapshot::parse(&bytes, number, "").ok()?;
            (found.id == id).then_some((bytes, number))
        })
    }
}

pub(super) fn find_snapshot(sources: &[Source], damaged: &[u8], number: u64, id: &str) -> Result<Option<Vec<u8>>> {
    for source in sources {
        if let Some(bytes) = source.snapshot(digest_in(damaged), number, id)? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The digest that stands in the first line of a snapshot file, which may be damaged behind it.
pub(super) fn digest_in(bytes: &[u8]) -> Option<Digest> {
    let mark = b"\"blake3\":\"";
    let at = bytes.windows(mark.len()).position(|w| w == mark)? + mark.len();
    Digest::from_hex(std::str::from_utf8(bytes.get(at..at + 64)?).ok()?)
}

/// Copies a pack if it is whole; false if it is not.
pub(super) fn copy_pack(from: &Path, to: &Path, name: PackName) -> Result<bool> {
    storage::remove_file(to)?;
    Ok(copy(from, to)? == name)
}

/// Copies a file to a free name, flushed; gives the digest of its bytes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<Digest> {
    let source = storage::open(from)?;
    let length = storage::length(&source, from)?;
    let target = storage::create_new(to)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let n = usize::try_from(length - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        storage::read_at(&source, from, &mut buffer[..n], at)?;
        hasher.update(&buffer[..n]);
        storage::write_at(&target, to, &buffer[..n], at)?;
        at += n as u64;
    }
    storage::sync(&target, to)?;
    Ok(Digest::finish(&hasher))
}
