//! Reads chunks from packs and verifies them.

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::chunks::placement::{Location, Placement};
use crate::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::pack::{self, Codec, Entry};
use crate::format::tree::ChunkRef;
use crate::storage;
use crate::storage::open_files::OpenFiles;

/// The chunks in a folder of packs: the placement, and the open files.
#[derive(Debug)]
pub struct Chunks {
    placement: Arc<Placement>,
    packs: PackFiles,
}

impl Chunks {
    /// The chunks of `placement`, whose packs are in `folder`.
    pub fn new(placement: Arc<Placement>, folder: PathBuf) -> Self {
        Self { placement, packs: PackFiles::new(folder) }
    }

    /// Where the chunks are stored.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// A shared handle to the placement.
    pub(crate) fn shared_placement(&self) -> Arc<Placement> {
        Arc::clone(&self.placement)
    }

    /// The path of a pack file.
    pub(crate) fn path(&self, name: &PackName) -> PathBuf {
        self.packs.path(name)
    }

    /// Reads and verifies a chunk, from any pack that holds it. `into` has the raw length of the chunk.
    pub(crate) fn read(&self, id: &ChunkId, into: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        self.read_choosing(id, None, into, scratch)
    }

    /// Like [`Chunks::read`], but tries the pack `chosen` first.
    pub(crate) fn read_choosing(
        &self,
        id: &ChunkId,
        chosen: Option<&PackName>,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let mut places: Vec<_> = self.placement.places(id).collect();
        // After the chosen pack come those that store the chunk whole, then deltas: `None` sorts before `Some`.
        places.sort_by_key(|p| (Some(&p.pack.name) != chosen, p.entry.base));
        let mut failure = None;
        for place in places {
            match self.read_at(place, into, scratch) {
                Ok(()) => return Ok(()),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| self.placement.missing(id)))
    }

    /// Reads and verifies a chunk of metadata into memory of its own.
    pub(crate) fn read_small(&self, chunk: &ChunkRef, scratch: &mut Scratch) -> Result<Vec<u8>> {
        let mut bytes = vec![0; chunk.len as usize];
        self.read(&chunk.id, &mut bytes, scratch)?;
        Ok(bytes)
    }

    /// Reads and verifies the chunk at this place. `into` has the raw length of the chunk.
    pub(crate) fn read_at(&self, place: Location<'_>, into: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let Entry { id, codec, raw, encoded, base, .. } = place.entry;
        if *raw as usize != into.len() {
            return Err(Error::corrupt(format!("chunk {} has {raw} bytes, {} were expected", id.hex(), into.len())));
        }
        let what = || format!("chunk {} in pack {}", id.hex(), place.pack.name.hex());
        if let Some(base) = base {
            self.read_base(base, into.len(), scratch).map_err(|e| e.context(what()))?;
        }
        if *codec == Codec::Raw && encoded == raw {
            self.packs.read(place, 0, into)?;
        } else {
            let Scratch { decoder, encoded, base: held, .. } = scratch;
            encoded.resize(place.entry.encoded as usize, 0);
            self.packs.read(place, 0, encoded)?;
            let done = match base {
                Some(_) => decoder.decode_delta_into(encoded, held, into),
                None => decoder.decode_into(*codec, encoded, into),
            };
            done.map_err(|e| e.context(what()))?;
        }
        if Digest::of(into) == *id {
            Ok(())
        } else {
            Err(Error::corrupt(format!("{} is damaged: its digest does not match its id", what())))
        }
    }

    /// Reads and verifies the base of a delta into `scratch.base`. A base is never a delta itself, so this does not
    /// recurse further.
    fn read_base(&self, id: &ChunkId, length: usize, scratch: &mut Scratch) -> Result<()> {
        let mut base = std::mem::take(&mut scratch.base);
        base.resize(length, 0);
        let mut result = Err(Error::corrupt(format!("no pack holds its base, chunk {}", id.hex())));
        for place in self.placement.whole(id, &HashSet::new()) {
            result = self.read_at(place, &mut base, scratch);
            if result.is_ok() {
                break;
            }
        }
        scratch.base = base;
        result
    }

    /// Fills `into` with the encoded bytes of a chunk, starting at byte `within`.
    pub(crate) fn read_encoded(&self, place: Location<'_>, within: usize, into: &mut [u8]) -> Result<()> {
        self.packs.read(place, within, into)
    }

    /// Decodes a zstd frame inside an encoded chunk: `len` bytes from byte `within` on.
    pub(crate) fn read_frame(
        &self,
        place: Location<'_>,
        within: usize,
        len: usize,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        if within.saturating_add(len) > place.entry.encoded as usize {
            return Err(Error::corrupt(format!("chunk {} is shorter than its planes", place.entry.id.hex())));
        }
        scratch.encoded.resize(len, 0);
        self.packs.read(place, within, &mut scratch.encoded)?;
        scratch.decoder.decode_into(Codec::Zstd, &scratch.encoded, into)
    }
}

/// The pack files of a folder, opened on demand.
#[derive(Debug)]
struct PackFiles {
    folder: PathBuf,
    open: OpenFiles<PackName>,
}

impl PackFiles {
    fn new(folder: PathBuf) -> Self {
        Self { folder, open: OpenFiles::default() }
    }

    fn path(&self, name: &PackName) -> PathBuf {
        self.folder.join(pack::file_name(name))
    }

    fn file(&self, name: &PackName) -> Result<Arc<File>> {
        self.open.get(*name, || {
            let path = self.path(name);
            storage::open(&path).map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::corrupt(format!("pack {} is missing", path.display())),
                _ => e,
            })
        })
    }

    fn read(&self, place: Location<'_>, within: usize, buffer: &mut [u8]) -> Result<()> {
        let file = self.file(&place.pack.name)?;
        storage::read_at(&file, &self.path(&place.pack.name), buffer, place.entry.offset + within as u64)
    }
}

/// The decoder and the buffers of one thread.
pub(crate) struct Scratch {
    decoder: Decoder,
    encoded: Vec<u8>,
    pub(crate) raw: Vec<u8>,
    base: Vec<u8>,
}

impl Scratch {
    /// Empty buffers.
    pub(crate) fn new() -> Self {
        Self { decoder: Decoder::new(), encoded: vec![], raw: vec![], base: vec![] }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
