//! The reader: reads and verifies bytes of a snapshot, in parallel, directly into their destinations.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chunks::closure::{Closure, closure, structure};
use crate::chunks::placement::Placement;
use crate::chunks::read::{Chunks, Scratch};
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::limits::{MAX_JSON, MAX_PLACEMENT};
use crate::format::snapshot::Snapshot;
use crate::format::structure::{Structure, describe};
use crate::format::tree::ChunkRef;
use crate::storage;
use crate::task::Task;

/// Bytes of the state that are wanted, and their destination.
#[derive(Debug)]
pub struct Want<'a> {
    /// The first byte in the state.
    pub offset: u64,
    /// The destination. Its length is the number of bytes.
    pub to: &'a mut [u8],
}

/// Turns damage into `NotFound` if the file of the snapshot is gone: then a prune has deleted the snapshot and its
/// packs.
pub(crate) fn told(error: Error, path: &Path, number: u64) -> Error {
    match error.kind() == ErrorKind::Corrupt && !storage::exists(path).unwrap_or(true) {
        true => Error::not_found(format!("snapshot {number} is gone: a prune has deleted it, or its file was deleted")),
        false => error,
    }
}

/// An open snapshot: its structure and its content list have been read.
#[derive(Debug)]
pub struct Reader {
    chunks: Chunks,
    pub(super) content: Vec<ChunkRef>,
    pub(super) starts: Vec<u64>,
    pack_of: HashMap<ChunkId, PackName>,
    length: u64,
    /// The error that says which chunks of the content are lost, if some are.
    gone: Option<Error>,
    /// The file of the snapshot, and its number. A prune may delete the snapshot at any time, and its packs.
    file: Option<(PathBuf, u64)>,
    /// The structure of the state.
    pub structure: Structure,
}

impl Reader {
    /// Opens the snapshot of an artifact: its file, its placement file (docs/format.md §6.4), and the folder of its
    /// packs.
    ///
    /// # Errors
    /// `NotFound` if one of the two files does not exist, `Corrupt` if something is damaged or missing, `Unsupported`
    /// if a newer lamina wrote it.
    pub fn open_artifact(snapshot: &Path, placement: &Path, packs: PathBuf) -> Result<Self> {
        let bytes = storage::read_small(snapshot, MAX_JSON)?;
        let parsed = Snapshot::parse(&bytes, 0, &snapshot.display().to_string())?;
        let bytes = storage::read_small(placement, MAX_PLACEMENT)?;
        let known = Placement::parse(&bytes, &placement.display().to_string())?;
        Self::open(Chunks::new(Arc::new(known), packs), &parsed)
    }

    /// Opens a snapshot of which every chunk is in a pack.
    ///
    /// # Errors
    /// `Corrupt` if its structure or its content tree is damaged, or if a chunk is in no pack.
    pub fn open(chunks: Chunks, snapshot: &Snapshot) -> Result<Self> {
        let reader = Self::open_partly(chunks, snapshot)?;
        reader.gone.clone().map_or(Ok(reader), Err)
    }

    /// Opens a snapshot even if chunks of its content are in no pack. What does not need them can be read.
    pub(crate) fn open_partly(chunks: Chunks, snapshot: &Snapshot) -> Result<Self> {
        let state = &snapshot.body.state;
        let structure = structure(&chunks, state)?;
        let Closure { content, metadata } = closure(&chunks, state, &mut HashMap::new())?;
        let mut starts = Vec::with_capacity(content.len());
        let mut at = 0u64;
        for c in &content {
            starts.push(at);
            at += u64::from(c.len);
        }
        let mut ids: HashSet<_> = content.iter().map(|c| c.id).chain(metadata).collect();
        let (length, pack_of) = (state.length, HashMap::new());
        let mut reader = Self { chunks, content, starts, pack_of, length, gone: None, file: None, structure };
        let serving = reader.chunks.placement().serve(&ids).or_else(|e| {
            let lost = reader.nowhere();
            for &index in &lost {
                ids.remove(&reader.content[index].id);
            }
            reader.gone = Some(reader.name(e, lost));
            reader.chunks.placement().serve(&ids)
        })?;
        reader.pack_of = serving.pack_of;
        Ok(reader)
    }

    /// Names the file of a snapshot in a repository. `explain` may add to the error about lost chunks.
    pub(crate) fn of_file(mut self, path: PathBuf, number: u64, explain: impl FnOnce(Error) -> Error) -> Self {
        self.gone = self.gone.map(explain);
        self.file = Some((path, number));
        self
    }

    /// The error of a read; see [`told`].
    pub(super) fn told(&self, error: Error) -> Error {
        match &self.file {
            Some((path, number)) => told(error, path, *number),
            None => error,
        }
    }

    /// The indices of the content chunks that cannot be read from any pack.
    fn nowhere(&self) -> Vec<usize> {
        let is_gone =
            |&index: &usize| self.chunks.placement().stored(&self.content[index].id, &HashSet::new()).is_none();
        (0..self.content.len()).filter(is_gone).collect()
    }

    /// Adds to an error which tensors or files these chunks hold.
    fn name(&self, error: Error, indices: Vec<usize>) -> Error {
        let end = |index: usize| self.starts[index] + u64::from(self.content[index].len);
        let parts: Vec<_> = indices.into_iter().map(|index| (self.starts[index], end(index))).collect();
        match error.kind() == ErrorKind::Corrupt && !parts.is_empty() {
            true => error.context(describe(&self.structure, &parts)),
            false => error,
        }
    }

    /// The chunks that hold bytes `offset..offset + length` of the state, in order.
    pub fn chunks(&self, offset: u64, length: u64) -> &[ChunkRef] {
        &self.content[self.overlapping(offset, offset.saturating_add(length).min(self.length))]
    }

    /// The encoded bytes of a chunk in the pack from which it is read; `None` if the snapshot does not need the chunk.
    pub fn encoded(&self, id: &ChunkId) -> Option<u32> {
        let chosen = self.pack_of.get(id)?;
        self.chunks.placement().places(id).find(|p| p.pack.name == *chosen).map(|p| p.entry.encoded)
    }

    /// The ids of all chunks that the snapshot needs: content, structure, content tree, and the bases of deltas.
    pub fn closure(&self) -> HashSet<ChunkId> {
        self.pack_of.keys().copied().collect()
    }

    /// The names of the packs that the snapshot needs.
    pub fn packs(&self) -> HashSet<PackName> {
        self.pack_of.values().copied().collect()
    }

    /// Reads and verifies a chunk of the content. If it is damaged in its pack, it is read from another pack.
    pub(super) fn chunk(&self, index: usize, scratch: &mut Scratch, dst: &mut [u8]) -> Result<()> {
        let id = &self.content[index].id;
        self.chunks.read_choosing(id, self.pack_of.get(id), dst, scratch).map_err(|e| self.name(e, vec![index]))
    }

    /// Refuses, before anything is read, if one of these chunks is lost.
    pub(super) fn refuse_lost(&self, mut indices: impl Iterator<Item = usize>) -> Result<()> {
        match &self.gone {
            Some(gone) if indices.any(|i| !self.pack_of.contains_key(&self.content[i].id)) => {
                Err(self.told(gone.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The indices of the chunks that overlap bytes `start..end` of the state.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        if start >= end {
            return 0..0;
        }
        let first = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        first..self.starts.partition_point(|&s| s < end)
    }

    /// Fills all destinations with verified bytes. After an error they hold any bytes.
    ///
    /// # Errors
    /// `InvalidInput` if bytes outside the state are wanted. `Corrupt` if bytes are lost or damaged, `NotFound` if a
    /// prune deletes the snapshot meanwhile, `Io` if a pack cannot be read, or the error of an interrupt of `task`.
    pub fn read(&self, wants: Vec<Want<'_>>, task: &Task<'_>) -> Result<()> {
        let mut fills: HashMap<usize, Vec<(usize, &mut [u8])>> = HashMap::new();
        for want in wants {
            let end = want.offset.checked_add(want.to.len() as u64).filter(|&e| e <= self.length);
            let end = end.ok_or_else(|| Error::invalid("the bytes that were asked for are outside the state"))?;
            let mut at = want.offset;
            let mut rest = want.to;
            for index in self.overlapping(at, end) {
                let within = (at - self.starts[index]) as usize;
                let n = (self.content[index].len as usize - within).min(rest.len());
                let (part, later) = rest.split_at_mut(n);
                fills.entry(index).or_default().push((within, part));
                rest = later;
                at += n as u64;
            }
        }
        let mut fills: Vec<_> = fills.into_iter().collect();
        fills.sort_by_key(|t| t.0);
        self.refuse_lost(fills.iter().map(|t| t.0))?;
        let mut fills = fills.into_iter();
        let work =
            |scratch: &mut Scratch, (index, parts): (usize, Vec<(usize, &mut [u8])>)| self.fill(scratch, index, parts);
        task.run(64, || Ok(fills.next()), Scratch::new, work, |()| Ok(())).map_err(|e| self.told(e))
    }

    fn fill(&self, scratch: &mut Scratch, index: usize, mut parts: Vec<(usize, &mut [u8])>) -> Result<()> {
        let chunk = self.content[index];
        if let [(0, part)] = &mut parts[..]
            && part.len() == chunk.len as usize
        {
            return self.chunk(index, scratch, part);
        }
        let mut raw = std::mem::take(&mut scratch.raw);
        raw.resize(chunk.len as usize, 0);
        let result = self.chunk(index, scratch, &mut raw);
        if result.is_ok() {
            for (within, part) in parts {
                part.copy_from_slice(&raw[within..within + part.len()]);
            }
        }
        scratch.raw = raw;
        result
    }
}
