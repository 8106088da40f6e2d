//! The check of a pack: its digest, and every chunk in it.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use crate::chunks::placement::Pack;
use crate::chunks::read::{Chunks, Scratch};
use crate::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::pack::{self, Codec, Entry};
use crate::storage;

/// Decodes a delta of a pack. `None` if its base is gone: that is damage only if a snapshot needs the chunk, and the
/// check of the snapshots finds those.
pub(crate) fn read_delta(
    chunks: &Chunks,
    pack: PackName,
    entry: &Entry,
    scratch: &mut Scratch,
    raw: &mut [u8],
) -> Option<Result<()>> {
    let place = chunks.placement().places(&entry.id).find(|p| p.pack.name == pack)?;
    let there = |name: &PackName| storage::exists(&chunks.path(name)).unwrap_or(true);
    let (base, none) = (entry.base?, HashSet::new());
    let mut bases = chunks.placement().whole(&base, &none).map(|p| p.pack.name).peekable();
    bases.peek()?;
    match chunks.read_at(place, raw, scratch) {
        // A prune has deleted the pack, or every pack that held the base.
        Err(_) if !there(&pack) || !bases.any(|name| there(&name)) => None,
        other => Some(other),
    }
}

/// What the check of a pack found. Empty if the pack is gone: a prune may have deleted it.
#[derive(Default)]
pub(crate) struct PackReport {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) problems: Vec<Error>,
    pub(crate) damaged: Vec<ChunkId>,
}

impl PackReport {
    /// Damage goes into the report; an error of the operating system stays an error.
    fn of(result: Result<Self>) -> Result<Self> {
        match result {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(e) if e.kind() != ErrorKind::Io => Ok(Self { problems: vec![e], ..Self::default() }),
            other => other,
        }
    }
}

/// Checks the footer of a pack.
pub(crate) fn check_footer(path: &Path, name: PackName) -> Result<PackReport> {
    PackReport::of(Pack::read(path, name).map(|_| PackReport::default()))
}

/// Reads a pack once, and checks its digest and every chunk. `delta` decodes a delta; `None` means that it cannot be
/// checked.
pub(crate) fn check_pack(
    path: &Path,
    name: PackName,
    decoder: &mut Decoder,
    delta: impl FnMut(&Entry, &mut [u8]) -> Option<Result<()>>,
) -> Result<PackReport> {
    PackReport::of(storage::open(path).and_then(|file| check_bytes(&file, path, name, decoder, delta)))
}

fn check_bytes(
    file: &File,
    path: &Path,
    name: PackName,
    decoder: &mut Decoder,
    mut delta: impl FnMut(&Entry, &mut [u8]) -> Option<Result<()>>,
) -> Result<PackReport> {
    let (length, footer) = pack::read_footer_bytes(file, path)?;
    let (entries, _) = pack::parse_footer(&footer, length, &path.display().to_string())?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(pack::MAGIC);
    let (mut encoded, mut raw) = (vec![], vec![]);
    let mut found = PackReport { chunks: entries.len() as u64, bytes: length, ..PackReport::default() };
    for entry in &entries {
        encoded.resize(entry.encoded as usize, 0);
        raw.resize(entry.raw as usize, 0);
        storage::read_at(file, path, &mut encoded, entry.offset)?;
        hasher.update(&encoded);
        let decoded = match entry.codec {
            Codec::Raw => {
                raw.copy_from_slice(&encoded);
                Ok(())
            }
            Codec::Delta => match delta(entry, &mut raw) {
                Some(decoded) => decoded,
                None => continue,
            },
            codec => decoder.decode_into(codec, &encoded, &mut raw),
        };
        if decoded.is_err() || Digest::of(&raw) != entry.id {
            let chunk = entry.id.hex();
            found.problems.push(Error::corrupt(format!("chunk {chunk} in pack {} is damaged", path.display())));
            found.damaged.push(entry.id);
        }
    }
    hasher.update(&footer);
    if Digest::finish(&hasher) != name {
        let what = path.display();
        found.problems.push(Error::corrupt(format!("pack {what} is damaged: its digest does not match its name")));
    }
    Ok(found)
}
