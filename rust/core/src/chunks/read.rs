//! Bytes of chunks, read from packs and verified.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunks::placement::{Location, Placement};
use crate::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::pack::{self, Codec, Entry};
use crate::format::tree::ChunkRef;
use crate::storage;

/// Open pack files of a folder.
#[derive(Debug)]
pub struct PackFiles {
    folder: PathBuf,
    open: Mutex<HashMap<PackName, Arc<File>>>,
}

/// Pack files that are kept open at once; more than a snapshot of a repository normally needs, fewer than any system allows.
const OPEN_FILES: usize = 128;

impl PackFiles {
    /// The packs of a folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default() }
    }

    /// Path of a pack.
    pub fn path(&self, name: &PackName) -> PathBuf {
        self.folder.join(pack::file_name(name))
    }

    fn file(&self, name: &PackName) -> Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(name) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(name);
        let file = storage::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::corrupt(format!("pack {} is missing", path.display())),
            _ => e,
        })?;
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        let file = Arc::new(file);
        open.insert(*name, Arc::clone(&file));
        Ok(file)
    }

    /// Fills `buffer` with the encoded bytes of a chunk from `within` on.
    pub fn read(&self, place: Location<'_>, within: usize, buffer: &mut [u8]) -> Result<()> {
        let file = self.file(&place.pack.name)?;
        storage::read_at(&file, &self.path(&place.pack.name), buffer, place.entry.offset + within as u64)
    }
}

/// A thread's decoder and buffers.
pub struct Scratch {
    decoder: Decoder,
    encoded: Vec<u8>,
    pub(crate) raw: Vec<u8>,
    base: Vec<u8>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self { decoder: Decoder::new(), encoded: vec![], raw: vec![], base: vec![] }
    }

    /// Decodes a zstd frame that stands in an encoded chunk, `len` bytes from `within` on.
    pub fn read_frame(
        &mut self,
        packs: &PackFiles,
        place: Location<'_>,
        within: usize,
        len: usize,
        dst: &mut [u8],
    ) -> Result<()> {
        if within.saturating_add(len) > place.entry.encoded as usize {
            return Err(Error::corrupt(format!("chunk {} is shorter than its planes", place.entry.id.hex())));
        }
        self.encoded.resize(len, 0);
        packs.read(place, within, &mut self.encoded)?;
        self.decoder.decode_into(Codec::Zstd, &self.encoded, dst)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads and verifies a chunk into `dst`, which has its raw length; the base of a delta is looked for in `placement`.
pub fn read_chunk(
    placement: &Placement,
    packs: &PackFiles,
    place: Location<'_>,
    scratch: &mut Scratch,
    dst: &mut [u8],
) -> Result<()> {
    let Entry { id, codec, raw, encoded, base, .. } = place.entry;
    if *raw as usize != dst.len() {
        return Err(Error::corrupt(format!("chunk {} has {raw} bytes, {} were expected", id.hex(), dst.len())));
    }
    let what = || format!("chunk {} in pack {}", id.hex(), place.pack.name.hex());
    if let Some(base) = base {
        read_base(placement, packs, base, scratch, dst.len()).map_err(|e| e.context(what()))?;
    }
    if *codec == Codec::Raw && encoded == raw {
        packs.read(place, 0, dst)?;
    } else {
        let Scratch { decoder, encoded, base: held, .. } = scratch;
        encoded.resize(place.entry.encoded as usize, 0);
        packs.read(place, 0, encoded)?;
        let done = match base {
            Some(_) => decoder.decode_delta_into(encoded, held, dst),
            None => decoder.decode_into(*codec, encoded, dst),
        };
        done.map_err(|e| e.context(what()))?;
    }
    if Digest::of(dst) == *id {
        Ok(())
    } else {
        Err(Error::corrupt(format!("{} is damaged: its digest is not its name", what())))
    }
}

/// Reads the base of a delta, verified, into the scratch. A base is never a delta itself, so this ends.
fn read_base(
    placement: &Placement,
    packs: &PackFiles,
    id: &ChunkId,
    scratch: &mut Scratch,
    length: usize,
) -> Result<()> {
    let mut base = std::mem::take(&mut scratch.base);
    base.resize(length, 0);
    let mut result = Err(Error::corrupt(format!("no pack holds its base, chunk {}", id.hex())));
    for place in placement.whole(id, &HashSet::new()) {
        result = read_chunk(placement, packs, place, scratch, &mut base);
        if result.is_ok() {
            break;
        }
    }
    scratch.base = base;
    result
}

/// A chunk of metadata, verified.
pub(crate) fn read_small(
    placement: &Placement,
    packs: &PackFiles,
    scratch: &mut Scratch,
    chunk: &ChunkRef,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; chunk.len as usize];
    read_any(placement, packs, &chunk.id, None, scratch, &mut bytes)?;
    Ok(bytes)
}

/// Reads and verifies a chunk, from the pack `chosen` if it is whole there, else from any other that holds it.
pub(crate) fn read_any(
    placement: &Placement,
    packs: &PackFiles,
    id: &ChunkId,
    chosen: Option<&PackName>,
    scratch: &mut Scratch,
    dst: &mut [u8],
) -> Result<()> {
    let mut places: Vec<_> = placement.places(id).collect();
    // A pack may hold it as a delta although another one has it whole: then that is the second choice.
    places.sort_by_key(|p| (Some(&p.pack.name) != chosen, p.entry.base));
    let mut failure = None;
    for place in places {
        match read_chunk(placement, packs, place, scratch, dst) {
            Ok(()) => return Ok(()),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| placement.missing(id)))
}
