//! Packs: files of encoded chunks, with a footer (docs/format.md §6).

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest};
use crate::format::envelope::VERSION;
use crate::format::limits::MAX_CHUNK;
use crate::format::words::{u32_at, u64_at};
use crate::storage;

/// The first bytes of a pack.
pub const MAGIC: &[u8; 8] = b"LAMINAPK";
/// The last bytes of a pack.
pub const END_MAGIC: &[u8; 8] = b"LAMINAFT";
/// Bytes of the trailer, which ends the footer.
pub const TRAILER: usize = 80;
/// The most entries of a pack: its footer has at most 76 MiB.
pub const MAX_ENTRIES: u32 = 1 << 20;
/// Bytes of a footer entry.
const ENTRY: usize = 44;
/// The required feature bits that this engine knows: bit 0 is `delta`.
const KNOWN_BITS: u64 = 1;

/// The file name of a pack.
pub(crate) fn file_name(name: &Digest) -> String {
    format!("{}.pack", name.hex())
}

/// The name of the pack in a file of this name; `None` if it is not the file name of a pack.
pub(crate) fn name_of(file: &str) -> Option<Digest> {
    Digest::from_hex(file.strip_suffix(".pack")?)
}

/// How a chunk is encoded (docs/format.md §7). The value is the tag on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The raw bytes.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// Byte planes, each encoded in its own way.
    Planes = 2,
    /// The difference to a base chunk.
    Delta = 3,
}

impl Codec {
    /// The codec with this tag; `None` if there is none.
    pub fn from_tag(tag: u8) -> Option<Codec> {
        [Self::Raw, Self::Zstd, Self::Planes, Self::Delta].into_iter().find(|&codec| codec as u8 == tag)
    }

    /// The name of the codec, as messages and statistics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zstd => "zstd",
            Self::Planes => "planes",
            Self::Delta => "delta",
        }
    }
}

/// What a chunk is for. Only statistics use it; prune and restore treat all kinds alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Content: bytes of a state.
    Content = 0,
    /// A node of a content tree.
    Node = 1,
    /// A part of a structure.
    Structure = 2,
}

/// An entry of a footer: one chunk of the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The id of the chunk.
    pub id: ChunkId,
    /// First byte of the encoded chunk in the pack file.
    pub offset: u64,
    /// Bytes of the encoded chunk.
    pub encoded: u32,
    /// Bytes of the raw chunk.
    pub raw: u32,
    /// How the chunk is encoded.
    pub codec: Codec,
    /// What the chunk is for.
    pub kind: Kind,
    /// The base of a delta; `None` for the other codecs.
    pub base: Option<ChunkId>,
}

/// The bytes of the footer and trailer of a pack with these entries (docs/format.md §6.2, §6.3).
///
/// `salt` is 0, except for a pack that would otherwise get the name of a condemned pack.
pub fn footer(entries: &[Entry], salt: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY + TRAILER);
    for e in entries {
        bytes.extend_from_slice(e.id.as_bytes());
        bytes.extend_from_slice(&e.encoded.to_le_bytes());
        bytes.extend_from_slice(&e.raw.to_le_bytes());
        bytes.extend_from_slice(&[e.codec as u8, e.kind as u8, 0, 0]);
    }
    for base in entries.iter().filter_map(|e| e.base) {
        bytes.extend_from_slice(base.as_bytes());
    }
    let length = bytes.len() as u64;
    let required = u64::from(entries.iter().any(|e| e.base.is_some()));
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&required.to_le_bytes());
    bytes.extend_from_slice(&0u64.to_le_bytes());
    bytes.extend_from_slice(&salt.to_le_bytes());
    let digest = digest(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes.extend_from_slice(END_MAGIC);
    bytes
}

/// The digest of the header, the footer and the fields of the trailer.
fn digest(footer_and_fields: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MAGIC).update(footer_and_fields);
    Digest::finish(&hasher)
}

/// Reads and checks the footer of a pack file. Returns the length of the file in bytes, its entries and its salt.
///
/// # Errors
/// `Corrupt` if the footer is damaged, `Unsupported` if a newer lamina wrote the pack, `Io` if the file cannot be read.
pub fn read_footer(file: &File, path: &Path) -> Result<(u64, Vec<Entry>, u64)> {
    let (length, footer) = read_footer_bytes(file, path)?;
    let (entries, salt) = parse_footer(&footer, length, &path.display().to_string())?;
    Ok((length, entries, salt))
}

/// Reads the footer of a pack file. Returns the length of the file, and the bytes of footer and trailer.
pub(crate) fn read_footer_bytes(file: &File, path: &Path) -> Result<(u64, Vec<u8>)> {
    let what = path.display();
    let length = storage::length(file, path)?;
    if length < (MAGIC.len() + TRAILER) as u64 {
        return Err(Error::corrupt(format!("pack {what} has {length} bytes; it is cut off")));
    }
    let mut magic = [0; 8];
    storage::read_at(file, path, &mut magic, 0)?;
    let mut trailer = [0; TRAILER];
    storage::read_at(file, path, &mut trailer, length - TRAILER as u64)?;
    if magic != *MAGIC || trailer[72..] != *END_MAGIC {
        return Err(Error::corrupt(format!(
            "pack {what} does not begin and end like a pack; it is cut off or overwritten"
        )));
    }
    let footer = u64_at(&trailer, 8);
    let count = u64::from(u32_at(&trailer, 4));
    // Checked before a buffer is allocated: a sparse file can have any length.
    let fits = count <= u64::from(MAX_ENTRIES) && footer <= count * (ENTRY as u64 + 32);
    if !fits || footer > length - (MAGIC.len() + TRAILER) as u64 {
        return Err(Error::corrupt(format!("pack {what} declares a footer of {footer} bytes for {count} entries")));
    }
    let mut bytes = vec![0; footer as usize + TRAILER];
    let at = length - bytes.len() as u64;
    storage::read_at(file, path, &mut bytes, at)?;
    Ok((length, bytes))
}

/// Checks the bytes of a footer and trailer against the length of the pack file. Returns the entries and the salt.
/// `what` names the pack in messages.
///
/// # Errors
/// `Corrupt` if the bytes are damaged or do not fit the length, `Unsupported` if a newer lamina wrote them.
pub fn parse_footer(bytes: &[u8], length: u64, what: &str) -> Result<(Vec<Entry>, u64)> {
    let damaged = |why: &str| Error::corrupt(format!("the footer of pack {what} is damaged: {why}"));
    let size = bytes.len().checked_sub(TRAILER).ok_or_else(|| damaged("it is too short"))?;
    let (footer, trailer) = bytes.split_at(size);
    if trailer[72..] != *END_MAGIC || digest(&bytes[..size + 40]).as_bytes()[..] != trailer[40..72] {
        return Err(damaged("its digest does not match its bytes"));
    }
    let version = u32_at(trailer, 0);
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "pack {what} has format version {version}; this lamina reads version {VERSION}: upgrade lamina"
        )));
    }
    let unknown = u64_at(trailer, 16) & !KNOWN_BITS;
    if unknown != 0 {
        return Err(Error::unsupported(format!(
            "pack {what} requires feature bit {}, which this lamina does not know: upgrade lamina",
            unknown.trailing_zeros()
        )));
    }
    let count = u32_at(trailer, 4);
    if count == 0 || count > MAX_ENTRIES || u64_at(trailer, 8) != size as u64 {
        return Err(damaged("its lengths contradict each other"));
    }
    let entries = parse_entries(footer, count as usize).map_err(damaged)?;
    if entries.iter().any(|e| e.base.is_some()) && u64_at(trailer, 16) & 1 == 0 {
        return Err(damaged("it has a delta chunk without the feature bit"));
    }
    let end = entries.last().map_or(0, |e| e.offset + u64::from(e.encoded));
    if end + bytes.len() as u64 != length {
        return Err(damaged("its entries do not add up to the pack's length"));
    }
    Ok((entries, u64_at(trailer, 32)))
}

fn parse_entries(footer: &[u8], count: usize) -> std::result::Result<Vec<Entry>, &'static str> {
    let fixed = footer.get(..count * ENTRY).ok_or("it is shorter than its entries")?;
    let mut bases = footer[count * ENTRY..].chunks(32);
    let mut entries = Vec::with_capacity(count);
    let mut offset = MAGIC.len() as u64;
    for bytes in fixed.chunks_exact(ENTRY) {
        let codec = Codec::from_tag(bytes[40]).ok_or("an entry has an unknown codec")?;
        let kind = [Kind::Content, Kind::Node, Kind::Structure].get(usize::from(bytes[41])).copied();
        let (encoded, raw) = (u32_at(bytes, 32), u32_at(bytes, 36));
        if encoded == 0
            || encoded > raw
            || raw as usize > MAX_CHUNK
            || bytes[42..] != [0, 0]
            || (codec == Codec::Raw && encoded != raw)
        {
            return Err("an entry has impossible lengths");
        }
        let base = match codec {
            Codec::Delta => Some(bases.next().and_then(Digest::from_slice).ok_or("a base is missing")?),
            _ => None,
        };
        let id = Digest::from_slice(&bytes[..32]).ok_or("an entry is cut off")?;
        entries.push(Entry {
            id,
            offset,
            encoded,
            raw,
            codec,
            kind: kind.ok_or("an entry has an unknown kind")?,
            base,
        });
        offset += u64::from(encoded);
    }
    match bases.next() {
        None => Ok(entries),
        Some(_) => Err("it has more bytes than its entries take"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn entries() -> Vec<Entry> {
        let entry = |i: u8, offset, codec, base| Entry {
            id: Digest::of(&[i]),
            offset,
            encoded: 5,
            raw: 5,
            codec,
            kind: Kind::Node,
            base,
        };
        vec![
            entry(0, 8, Codec::Raw, None),
            entry(1, 13, Codec::Delta, Some(Digest::of(b"b"))),
            entry(2, 18, Codec::Zstd, None),
        ]
    }

    #[test]
    fn round_trip_and_every_flip() {
        let bytes = footer(&entries(), 0);
        let length = 8 + 15 + bytes.len() as u64;
        assert_eq!(parse_footer(&bytes, length, "p").unwrap(), (entries(), 0));
        assert!(parse_footer(&bytes, length + 1, "p").is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_footer(&bad, length, "p").unwrap_err().kind(), ErrorKind::Corrupt, "{bit}");
        }
        for cut in 0..bytes.len() {
            assert_eq!(parse_footer(&bytes[..cut], length, "p").unwrap_err().kind(), ErrorKind::Corrupt, "{cut}");
        }
    }

    #[test]
    fn unknown_bits_are_named() {
        let mut bytes = footer(&entries(), 0);
        let end = bytes.len() - TRAILER;
        bytes[end + 16] |= 4;
        let digest = digest(&bytes[..end + 40]);
        bytes[end + 40..end + 72].copy_from_slice(digest.as_bytes());
        let error = parse_footer(&bytes, 23 + bytes.len() as u64, "p").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("bit 2"), "{error}");
    }
}
