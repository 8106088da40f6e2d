//! Sources of a repair: other repositories, and artifact directories, which may hold what a repository has lost.

use std::path::Path;
use std::sync::Arc;

use crate::chunks::placement::{Pack, Placement};
use crate::chunks::read::Chunks;
use crate::error::{ErrorKind, Result};
use crate::format::digest::{Digest, PackName};
use crate::format::envelope;
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::Snapshot;
use crate::repository::parts::Parts;
use crate::repository::paths::{Paths, small_files, snapshot_number};
use crate::storage;

/// A source: another repository, or an artifact directory.
pub(crate) struct Source {
    pub(crate) paths: Paths,
    id: Option<String>,
    pub(crate) chunks: Chunks,
}

impl Source {
    /// Opens a source. What is damaged in it is left out.
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
        let id = Parts::open(folder).ok().map(|r| r.id().to_owned());
        let chunks = Chunks::new(Arc::new(placement), paths.packs());
        Ok(Self { paths, id, chunks })
    }

    /// The bytes of the snapshot file with this digest; `None` if the source has no such file.
    fn snapshot(&self, digest: Digest) -> Result<Option<Vec<u8>>> {
        let mut paths = vec![self.paths.artifact()];
        paths.extend(small_files(&self.paths.snapshots())?);
        let is_it = |bytes: &Vec<u8>| envelope::unseal(bytes, "snapshot", "").is_ok_and(|(found, _)| found == digest);
        Ok(paths.iter().filter_map(|path| storage::read_small(path, MAX_JSON).ok()).find(is_it))
    }

    /// The bytes of the snapshot file of this number, if this source is a copy of the repository `id`, and the damaged
    /// file still contains the session that wrote it. Without the session it may be another snapshot: a copy that was
    /// saved to uses the same numbers.
    fn counterpart(&self, damaged: &[u8], number: u64, id: &str) -> Option<Vec<u8>> {
        let bytes = storage::read_small(&self.paths.snapshot(number), MAX_JSON).ok()?;
        let found = Snapshot::parse(&bytes, number, "").ok()?;
        (self.is_copy_of(id) && occurs(&found.body.session, damaged)).then_some(bytes)
    }

    /// The bytes of an alias file, if this source is a copy of the repository `id`, and the damaged file still contains
    /// their digest or the id of their snapshot.
    pub(super) fn alias(&self, path: &Path, damaged: &[u8], id: &str) -> Option<Vec<u8>> {
        let bytes = storage::read_small(path, MAX_JSON).ok()?;
        let (digest, body) = envelope::unseal(&bytes, "alias", "").ok()?;
        let same = digest_in(damaged) == Some(digest) || occurs(body.get("snapshot")?.as_str()?, damaged);
        (self.is_copy_of(id) && same).then_some(bytes)
    }

    /// Whether this source is a copy of the repository with this id.
    pub(super) fn is_copy_of(&self, id: &str) -> bool {
        self.id.as_deref() == Some(id)
    }

    /// The file of the snapshot with this id: its bytes, and its number.
    pub(super) fn file_of(&self, id: &str) -> Option<(Vec<u8>, u64)> {
        let names = storage::list(&self.paths.snapshots()).ok()?;
        names.iter().filter_map(|name| snapshot_number(name)).find_map(|number| {
            let bytes = storage::read_small(&self.paths.snapshot(number), MAX_JSON).ok()?;
            let found = Snapshot::parse(&bytes, number, "").ok()?;
            (found.id == id).then_some((bytes, number))
        })
    }
}

/// Finds the bytes of a damaged snapshot file in the sources. A file with the digest that is left in the damaged one
/// comes first, then one that [`Source::counterpart`] accepts.
pub(super) fn find_snapshot(sources: &[Source], damaged: &[u8], number: u64, id: &str) -> Result<Option<Vec<u8>>> {
    if let Some(digest) = digest_in(damaged) {
        for source in sources {
            if let Some(bytes) = source.snapshot(digest)? {
                return Ok(Some(bytes));
            }
        }
    }
    Ok(sources.iter().find_map(|source| source.counterpart(damaged, number, id)))
}

/// Whether a damaged file still contains this word.
pub(super) fn occurs(word: &str, bytes: &[u8]) -> bool {
    !word.is_empty() && bytes.windows(word.len()).any(|part| part == word.as_bytes())
}

/// The digest in the first line of a file that may be damaged elsewhere.
pub(super) fn digest_in(bytes: &[u8]) -> Option<Digest> {
    let mark = b"\"blake3\":\"";
    let at = bytes.windows(mark.len()).position(|w| w == mark)? + mark.len();
    Digest::from_hex(std::str::from_utf8(bytes.get(at..at + 64)?).ok()?)
}

/// Copies a pack, and returns whether the copy has the right digest.
pub(super) fn copy_pack(from: &Path, to: &Path, name: PackName) -> Result<bool> {
    storage::remove_file(to)?;
    Ok(copy(from, to)? == name)
}

/// Copies a file to a name that is free, and flushes the copy. Returns the digest of its bytes.
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
