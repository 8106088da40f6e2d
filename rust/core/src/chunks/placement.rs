//! The placement: which pack holds a chunk. It is derived from the footers of packs and can be rebuilt from them at any
//! time.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::envelope::VERSION;
use crate::format::pack::{self, Entry};
use crate::format::words::{u32_at, u64_at};
use crate::storage;

const MAGIC: &[u8; 8] = b"LAMINAPL";
/// A pack is rewritten if less than 1/HALF of its encoded bytes is used by the newest snapshot.
const HALF: u64 = 2;

/// A pack whose footer has been read.
#[derive(Debug, Clone)]
pub struct Pack {
    /// The digest of the file.
    pub name: PackName,
    /// Length of the file in bytes.
    pub length: u64,
    /// The entries of its footer, one per chunk.
    pub entries: Vec<Entry>,
    /// The salt in its footer; see [`crate::internals::pack::footer`].
    pub salt: u64,
}

impl Pack {
    /// Reads the footer of a pack file.
    pub(crate) fn read(path: &Path, name: PackName) -> Result<Self> {
        let (length, entries, salt) = pack::read_footer(&storage::open(path)?, path)?;
        Ok(Self { name, length, entries, salt })
    }

    /// Bytes of its encoded chunks.
    pub(crate) fn encoded(&self) -> u64 {
        self.entries.iter().map(|e| u64::from(e.encoded)).sum()
    }
}

/// Where a chunk is stored.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    /// The pack.
    pub pack: &'a Pack,
    /// The entry of the chunk in the footer of the pack.
    pub entry: &'a Entry,
}

/// How a chunk can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// From its own bytes.
    Whole,
    /// As the difference to this chunk, which is stored whole somewhere.
    Delta(ChunkId),
}

/// A set of packs, and an index of the chunks in them.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    packs: HashMap<PackName, Pack>,
    chunks: HashMap<ChunkId, Vec<(PackName, u32)>>,
}

impl Placement {
    /// Adds a pack.
    pub fn insert(&mut self, pack: Pack) {
        for (index, entry) in pack.entries.iter().enumerate() {
            let places = self.chunks.entry(entry.id).or_default();
            if !places.iter().any(|p| p.0 == pack.name) {
                places.push((pack.name, index as u32));
            }
        }
        self.packs.insert(pack.name, pack);
    }

    /// Removes a pack.
    pub(crate) fn remove(&mut self, name: &PackName) {
        let Some(pack) = self.packs.remove(name) else { return };
        for entry in &pack.entries {
            if let Some(places) = self.chunks.get_mut(&entry.id) {
                places.retain(|p| p.0 != *name);
                if places.is_empty() {
                    self.chunks.remove(&entry.id);
                }
            }
        }
    }

    /// The pack of this name.
    pub(crate) fn pack(&self, name: &PackName) -> Option<&Pack> {
        self.packs.get(name)
    }

    /// All packs.
    pub fn packs(&self) -> impl Iterator<Item = &Pack> {
        self.packs.values()
    }

    /// Where the chunk is stored whole, in packs outside `except`.
    pub(crate) fn whole(&self, id: &ChunkId, except: &HashSet<PackName>) -> impl Iterator<Item = Location<'_>> {
        self.places(id).filter(|p| p.entry.base.is_none() && !except.contains(&p.pack.name))
    }

    /// How to read the chunk from packs outside `except`; `None` if that is impossible. Whole if it is stored whole,
    /// else as a delta whose base is stored whole: of several deltas, the one with the smallest base id (docs/format.md
    /// §9).
    pub(crate) fn stored(&self, id: &ChunkId, except: &HashSet<PackName>) -> Option<Stored> {
        if self.whole(id, except).next().is_some() {
            return Some(Stored::Whole);
        }
        let outside = self.places(id).filter(|p| !except.contains(&p.pack.name));
        let bases = outside.filter_map(|p| p.entry.base).filter(|base| self.whole(base, except).next().is_some());
        bases.min().map(Stored::Delta)
    }

    /// The places outside `except` from which [`Placement::stored`] says to read the chunk.
    pub(crate) fn readable(&self, id: &ChunkId, except: &HashSet<PackName>) -> impl Iterator<Item = Location<'_>> {
        let stored = self.stored(id, except);
        let fits = move |p: &Location<'_>| match stored {
            Some(Stored::Whole) => p.entry.base.is_none(),
            Some(Stored::Delta(base)) => p.entry.base == Some(base),
            None => false,
        };
        self.places(id).filter(move |p| fits(p) && !except.contains(&p.pack.name))
    }

    /// Every place where the chunk is stored, whole or as a delta.
    pub fn places(&self, id: &ChunkId) -> impl Iterator<Item = Location<'_>> {
        self.chunks.get(id).into_iter().flatten().filter_map(|(name, index)| {
            let pack = self.packs.get(name)?;
            Some(Location { pack, entry: pack.entries.get(*index as usize)? })
        })
    }

    /// A place from which the chunk can be read.
    ///
    /// # Errors
    /// `Corrupt` if no pack holds it.
    pub(crate) fn find(&self, id: &ChunkId) -> Result<Location<'_>> {
        self.readable(id, &HashSet::new()).next().ok_or_else(|| self.missing(id))
    }

    /// The error for a chunk that cannot be read. It names this chunk, or the base that it needs.
    pub(crate) fn missing(&self, id: &ChunkId) -> Error {
        match self.places(id).find_map(|p| p.entry.base) {
            Some(base) => missing(&base).context(format!("chunk {} is the difference to another", id.hex())),
            None => missing(id),
        }
    }

    /// Chooses a pack for each chunk of a closure, and for each base that it needs (docs/format.md §9). Of the packs
    /// from which a chunk can be read, it takes the one that has the largest part of its bytes in the closure. So packs
    /// that mostly hold other data are not needed.
    ///
    /// # Errors
    /// `Corrupt` if a chunk cannot be read from any pack.
    pub fn serve(&self, closure: &HashSet<ChunkId>) -> Result<Serving> {
        let all = HashSet::new();
        let bases = closure.iter().filter_map(|id| match self.stored(id, &all) {
            Some(Stored::Delta(base)) => Some(base),
            _ => None,
        });
        let closure: HashSet<ChunkId> = closure.iter().copied().chain(bases).collect();
        let mut share: HashMap<PackName, u64> = HashMap::new();
        for id in &closure {
            for place in self.readable(id, &all) {
                *share.entry(place.pack.name).or_default() += u64::from(place.entry.encoded);
            }
        }
        let mut serving = Serving::default();
        for id in &closure {
            // Fractions are compared by cross-multiplication, so that rounding cannot decide.
            let best = self.readable(id, &all).max_by(|a, b| {
                let part = |p: &Location<'_>, other: &Location<'_>| {
                    u128::from(share[&p.pack.name]) * u128::from(other.pack.length)
                };
                part(a, b).cmp(&part(b, a)).then(b.pack.name.cmp(&a.pack.name))
            });
            let best = best.ok_or_else(|| self.missing(id))?;
            *serving.live.entry(best.pack.name).or_default() += u64::from(best.entry.encoded);
            serving.pack_of.insert(*id, best.pack.name);
        }
        Ok(serving)
    }

    /// The packs of which the closure uses less than half, each with the bytes that it uses.
    pub(crate) fn sparse<'a>(&'a self, serving: &'a Serving) -> impl Iterator<Item = (&'a Pack, u64)> {
        serving.live.iter().filter_map(|(name, &live)| {
            self.pack(name).filter(|pack| live * HALF < pack.encoded()).map(|pack| (pack, live))
        })
    }

    /// The bytes of `lamina.placement` for these packs (docs/format.md §6.4). Packs that are not known are left out.
    pub fn to_bytes(&self, names: &HashSet<PackName>) -> Vec<u8> {
        let mut packs: Vec<&Pack> = names.iter().filter_map(|n| self.packs.get(n)).collect();
        packs.sort_by_key(|p| p.name);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(packs.len() as u32).to_le_bytes());
        for pack in packs {
            let footer = pack::footer(&pack.entries, pack.salt);
            bytes.extend_from_slice(pack.name.as_bytes());
            bytes.extend_from_slice(&pack.length.to_le_bytes());
            bytes.extend_from_slice(&(footer.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&footer);
        }
        let digest = PackName::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads the bytes of `lamina.placement` (docs/format.md §6.4). `what` names the file in messages.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are damaged, `Unsupported` if a newer version of the format wrote them.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let damaged = |why: &str| Error::corrupt(format!("{what} is damaged: {why}"));
        let size = bytes.len().checked_sub(32).filter(|&s| s >= 16).ok_or_else(|| damaged("it is cut off"))?;
        if PackName::of(&bytes[..size]).as_bytes()[..] != bytes[size..] || bytes[..8] != *MAGIC {
            return Err(damaged("its digest does not match its bytes"));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "{what} has format version {version}; this lamina reads version {VERSION}: upgrade lamina"
            )));
        }
        let mut placement = Self::default();
        let mut rest = &bytes[16..size];
        let mut last = None;
        for _ in 0..u32_at(bytes, 12) {
            let head = rest.get(..48).ok_or_else(|| damaged("it ends inside a pack"))?;
            let name = PackName::from_slice(&head[..32]).ok_or_else(|| damaged("it ends inside a pack"))?;
            if last.replace(name) >= Some(name) {
                return Err(damaged("its packs are not sorted by name"));
            }
            let (length, footer) = (u64_at(head, 32), u64_at(head, 40));
            let footer = usize::try_from(footer).ok().and_then(|n| rest.get(48..48usize.checked_add(n)?));
            let footer = footer.ok_or_else(|| damaged("it ends inside a footer"))?;
            let (entries, salt) = pack::parse_footer(footer, length, &name.hex())?;
            placement.insert(Pack { name, length, entries, salt });
            rest = &rest[48 + footer.len()..];
        }
        if rest.is_empty() { Ok(placement) } else { Err(damaged("it has bytes after the last pack")) }
    }
}

fn missing(id: &ChunkId) -> Error {
    Error::corrupt(format!("no pack holds chunk {}; a pack was deleted or lost", id.hex()))
}

/// Which pack serves which chunk of a closure; made by [`Placement::serve`].
#[derive(Debug, Default)]
pub struct Serving {
    /// The pack of each chunk.
    pub pack_of: HashMap<ChunkId, PackName>,
    /// For each pack, the encoded bytes of the chunks that it serves.
    pub(crate) live: HashMap<PackName, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::pack::{Codec, Kind};

    fn pack(name: u8, chunks: &[u8]) -> Pack {
        let mut offset = 8;
        let mut entry = |c: &u8| {
            offset += 10;
            Entry {
                id: ChunkId::of(&[*c]),
                offset: offset - 10,
                encoded: 10,
                raw: 10,
                codec: Codec::Raw,
                kind: Kind::Content,
                base: None,
            }
        };
        let entries: Vec<_> = chunks.iter().map(&mut entry).collect();
        let length = 8 + 10 * chunks.len() as u64 + pack::footer(&entries, 0).len() as u64;
        Pack { name: PackName::of(&[name]), length, entries, salt: 0 }
    }

    #[test]
    fn the_fuller_pack_serves() {
        let mut placement = Placement::default();
        placement.insert(pack(0, &[1, 2, 3, 4, 5, 6, 7, 8]));
        placement.insert(pack(1, &[1, 9]));
        let closure = [1, 9].map(|c: u8| ChunkId::of(&[c])).into_iter().collect();
        let serving = placement.serve(&closure).unwrap();
        assert_eq!(serving.live, HashMap::from([(PackName::of(&[1]), 20)]));
        placement.remove(&PackName::of(&[1]));
        assert_eq!(placement.serve(&closure).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn bytes_round_trip_and_every_flip() {
        let mut placement = Placement::default();
        placement.insert(pack(0, &[1, 2]));
        placement.insert(pack(1, &[3]));
        let names = [PackName::of(&[0]), PackName::of(&[1])].into_iter().collect();
        let bytes = placement.to_bytes(&names);
        assert_eq!(Placement::parse(&bytes, "it").unwrap().to_bytes(&names), bytes);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Placement::parse(&bad, "it").unwrap_err().kind(), ErrorKind::Corrupt);
        }
        for cut in 0..bytes.len() {
            assert_eq!(Placement::parse(&bytes[..cut], "it").unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn packs_stand_in_order_and_once() {
        let mut placement = Placement::default();
        placement.insert(pack(0, &[1, 2]));
        let bytes = placement.to_bytes(&[PackName::of(&[0])].into_iter().collect());
        let entry = &bytes[16..bytes.len() - 32];
        let mut twice = [MAGIC, &VERSION.to_le_bytes()[..], &2u32.to_le_bytes(), entry, entry].concat();
        twice.extend_from_slice(PackName::of(&twice).as_bytes());
        assert_eq!(Placement::parse(&twice, "it").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
