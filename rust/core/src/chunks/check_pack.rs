//! The check of a pack: its digest, and every chunk in it.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use crate::chunks::read::{Chunks, Scratch};
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::pack::{self, Codec, Entry};
use crate::storage;

/// Decodes a delta of a pack. `None` where its base is gone: that is damage only if a snapshot needs the chunk, and those
/// are looked at too.
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
        // Prune may have been faster.
        Err(_) if !there(&pack) || !bases.any(|name| there(&name)) => None,
        other => Some(other),
    }
}

/// What was found in a pack.
#[derive(Default)]
pub(crate) struct PackReport {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) problems: Vec<String>,
    pub(crate) damaged: Vec<ChunkId>,
}

impl PackReport {
    pub(crate) fn of(error: &Error) -> Self {
        Self { problems: vec![error.message().to_owned()], ..Self::default() }
    }
}

/// Reads a pack once: its digest, and every chunk.
pub(crate) fn verify_pack(
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
            found.problems.push(format!("chunk {} in pack {} is damaged", entry.id.hex(), path.display()));
            found.damaged.push(entry.id);
        }
    }
    hasher.update(&footer);
    if Digest::finish(&hasher) != name {
        found.problems.push(format!("pack {} is damaged: its digest is not its name", path.display()));
    }
    Ok(found)
}
