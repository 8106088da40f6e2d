//! Rescue: chunks that are whole where they stand are stored anew, in packs of their own.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::chunks::placement::Location;
use crate::chunks::read::{Chunks, Scratch};
use crate::codec::{CodecChoice, Encoder};
use crate::error::{ErrorKind, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::dtype::Element;
use crate::format::pack::{self, Codec, Entry};
use crate::repository::Repository;
use crate::repository::copies::Source;
use crate::repository::session::Session;
use crate::storage;

/// A pack of rescued chunks is made in memory and ends here.
const PACK_TARGET: usize = 16 << 20;

/// Encoded chunks on their way into a pack.
pub(crate) struct Rescue<'a> {
    session: &'a Session,
    packs: PathBuf,
    avoid: HashSet<PackName>,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    pub(super) stored: HashSet<ChunkId>,
    scratch: Scratch,
    encoder: Encoder,
    pub(crate) written: u64,
}

impl<'a> Rescue<'a> {
    pub(crate) fn new(repository: &Repository, session: &'a Session, avoid: HashSet<PackName>) -> Self {
        Self {
            session,
            packs: repository.paths.packs(),
            avoid,
            bytes: vec![],
            entries: vec![],
            stored: HashSet::new(),
            scratch: Scratch::new(),
            encoder: Encoder::new(),
            written: 0,
        }
    }

    /// Stores a chunk anew if it is whole where it stands, and gives its bytes.
    pub(crate) fn copy(&mut self, chunks: &Chunks, place: Location<'_>) -> Result<Option<Vec<u8>>> {
        let mut raw = vec![0; place.entry.raw as usize];
        match chunks.read_at(place, &mut raw, &mut self.scratch) {
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Cancelled) => return Err(e),
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        if self.stored.insert(place.entry.id) {
            self.store(chunks, place, &raw)?;
        }
        Ok(Some(raw))
    }

    /// Stores a chunk anew from the first source that has it whole, and gives its bytes.
    pub(super) fn fetch(&mut self, id: &ChunkId, sources: &[Source]) -> Result<Option<Vec<u8>>> {
        for source in sources {
            for place in source.chunks.placement().places(id) {
                if let Some(raw) = self.copy(&source.chunks, place)? {
                    return Ok(Some(raw));
                }
            }
        }
        Ok(None)
    }

    /// As it is encoded already; but a delta, whose base may be lost, as a chunk of its own.
    fn store(&mut self, chunks: &Chunks, place: Location<'_>, raw: &[u8]) -> Result<()> {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(pack::MAGIC);
        }
        let offset = self.bytes.len();
        let codec = if place.entry.codec == Codec::Delta {
            let (codec, encoded) = self.encoder.encode(raw, Element::OPAQUE, CodecChoice::Auto)?;
            self.bytes.extend_from_slice(encoded);
            codec
        } else {
            self.bytes.resize(offset + place.entry.encoded as usize, 0);
            chunks.read_encoded(place, 0, &mut self.bytes[offset..])?;
            place.entry.codec
        };
        let encoded = (self.bytes.len() - offset) as u32;
        self.entries.push(Entry { offset: offset as u64, encoded, codec, base: None, ..*place.entry });
        if self.bytes.len() >= PACK_TARGET { self.close() } else { Ok(()) }
    }

    /// Writes the pack; from then on its chunks are there.
    pub(crate) fn close(&mut self) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let chunks = self.bytes.len();
        for salt in 0.. {
            self.bytes.truncate(chunks);
            self.bytes.extend_from_slice(&pack::footer(&self.entries, salt));
            let name = PackName::of(&self.bytes);
            if !self.avoid.contains(&name) {
                let temp = self.session.folder().join("rescued.tmp");
                storage::write_synced(&temp, &self.bytes)?;
                storage::rename(&temp, &self.packs.join(pack::file_name(&name)))?;
                storage::sync_dir(&self.packs)?;
                self.written += self.bytes.len() as u64;
                break;
            }
        }
        self.bytes.clear();
        self.entries.clear();
        Ok(())
    }
}
