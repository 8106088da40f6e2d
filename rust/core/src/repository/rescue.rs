//! Rescue: copies undamaged chunks into new packs.

use std::collections::HashSet;

use crate::chunks::pack_writer::{Encoded, PackWriter};
use crate::chunks::placement::Location;
use crate::chunks::read::{Chunks, Scratch};
use crate::codec::{CodecChoice, Encoder};
use crate::error::{ErrorKind, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::dtype::Element;
use crate::format::pack::{Codec, Entry};
use crate::format::tree::ChunkRef;
use crate::repository::copies::Source;
use crate::repository::parts::Parts;
use crate::repository::session::Session;

/// Size, in bytes, at which a pack of rescued chunks is closed.
const PACK_TARGET: u64 = 16 << 20;

/// Writes rescued chunks into packs of their own.
pub(crate) struct Rescue {
    packs: PackWriter,
    scratch: Scratch,
    encoder: Encoder,
    encoded: Vec<u8>,
}

impl Rescue {
    pub(crate) fn new(parts: &Parts, session: &Session, avoid: HashSet<PackName>) -> Self {
        Self {
            packs: PackWriter::new(session.folder(), &parts.paths.packs(), PACK_TARGET, avoid),
            scratch: Scratch::new(),
            encoder: Encoder::new(),
            encoded: vec![],
        }
    }

    /// Whether the chunk was rescued.
    pub(super) fn has(&self, id: &ChunkId) -> bool {
        self.packs.has(id)
    }

    /// Rescues a chunk, if it is undamaged at this place. Returns its raw bytes.
    pub(crate) fn copy(&mut self, chunks: &Chunks, place: Location<'_>) -> Result<Option<Vec<u8>>> {
        let mut raw = vec![0; place.entry.raw as usize];
        match chunks.read_at(place, &mut raw, &mut self.scratch) {
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Cancelled) => return Err(e),
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        if !self.has(&place.entry.id) {
            self.store(chunks, place, &raw)?;
        }
        Ok(Some(raw))
    }

    /// Rescues a chunk from the first source that has it undamaged. Returns its raw bytes.
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

    /// Stores a chunk with its encoded bytes. A delta is encoded anew as a whole chunk, because its base may be lost.
    fn store(&mut self, chunks: &Chunks, place: Location<'_>, raw: &[u8]) -> Result<()> {
        let &Entry { id, kind, codec, encoded, raw: len, .. } = place.entry;
        let (codec, bytes) = if codec == Codec::Delta {
            self.encoder.encode(raw, Element::OPAQUE, CodecChoice::Auto)?
        } else {
            self.encoded.resize(encoded as usize, 0);
            chunks.read_encoded(place, 0, &mut self.encoded)?;
            (codec, self.encoded.as_slice())
        };
        self.packs.add(&Encoded { id: ChunkRef { id, len }, kind, codec, base: None, bytes })
    }

    /// Closes the packs and makes them visible. Returns their bytes.
    pub(crate) fn finish(self) -> Result<u64> {
        // If nothing was stored, the folder of packs may not exist.
        if self.packs.is_empty() {
            return Ok(0);
        }
        Ok(self.packs.finish()?.iter().map(|pack| pack.length).sum())
    }
}
