//! The reader: verified bytes of a snapshot, in parallel, straight to where they are wanted.

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

/// A destination: bytes of the state from `offset` go here.
#[derive(Debug)]
pub struct Want<'a> {
    /// First byte in the state.
    pub offset: u64,
    /// Where they go.
    pub to: &'a mut [u8],
}

/// The error of reading a snapshot: where its file is gone, that says so instead of what is missing.
pub(crate) fn told(error: Error, path: &Path, number: u64) -> Error {
    match error.kind() == ErrorKind::Corrupt && !storage::exists(path).unwrap_or(true) {
        true => Error::not_found(format!("snapshot {number} is gone: a prune has deleted it, or somebody its file")),
        false => error,
    }
}

/// A snapshot whose content list and structure have been read.
#[derive(Debug)]
pub struct Reader {
    chunks: Chunks,
    pub(super) content: Vec<ChunkRef>,
    pub(super) starts: Vec<u64>,
    pack_of: HashMap<ChunkId, PackName>,
    length: u64,
    /// What says that chunks of the content are in no pack.
    gone: Option<Error>,
    /// File of the snapshot, and its number: a prune may delete it at any time, and its packs.
    file: Option<(PathBuf, u64)>,
    /// What the bytes mean.
    pub structure: Structure,
}

impl Reader {
    /// Opens an artifact: the snapshot in the file `snapshot`, whose chunks stand in the packs that `placement` names.
    ///
    /// # Errors
    /// `NotFound` if one of the two files does not exist, `Corrupt` or `Unsupported` if one cannot be read.
    pub fn open_artifact(snapshot: &Path, placement: &Path, packs: PathBuf) -> Result<Self> {
        let bytes = storage::read_small(snapshot, MAX_JSON)?;
        let parsed = Snapshot::parse(&bytes, 0, &snapshot.display().to_string())?;
        let bytes = storage::read_small(placement, MAX_PLACEMENT)?;
        let known = Placement::parse(&bytes, &placement.display().to_string())?;
        Self::open(Chunks::new(Arc::new(known), packs), &parsed)
    }

    /// Reads content list and structure of a snapshot, every chunk of which stands in a pack.
    pub fn open(chunks: Chunks, snapshot: &Snapshot) -> Result<Self> {
        let reader = Self::open_partly(chunks, snapshot)?;
        reader.gone.clone().map_or(Ok(reader), Err)
    }

    /// The same, also where no pack holds some chunks of the content: what needs none of them can be read.
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

    /// The same for a snapshot of a repository, whose file this is; what is said of lost chunks is `explain`ed.
    pub(crate) fn of_file(mut self, path: PathBuf, number: u64, explain: impl FnOnce(Error) -> Error) -> Self {
        self.gone = self.gone.map(explain);
        self.file = Some((path, number));
        self
    }

    /// What is missing of a snapshot that is gone is no damage.
    pub(super) fn told(&self, error: Error) -> Error {
        match &self.file {
            Some((path, number)) => told(error, path, *number),
            None => error,
        }
    }

    /// Indices of the chunks of the content that no pack holds.
    fn nowhere(&self) -> Vec<usize> {
        let is_gone =
            |&index: &usize| self.chunks.placement().stored(&self.content[index].id, &HashSet::new()).is_none();
        (0..self.content.len()).filter(is_gone).collect()
    }

    /// The error, with what these chunks hold in front of it.
    fn name(&self, error: Error, indices: Vec<usize>) -> Error {
        let end = |index: usize| self.starts[index] + u64::from(self.content[index].len);
        let parts: Vec<_> = indices.into_iter().map(|index| (self.starts[index], end(index))).collect();
        match error.kind() == ErrorKind::Corrupt && !parts.is_empty() {
            true => error.context(describe(&self.structure, &parts)),
            false => error,
        }
    }

    /// The chunks that hold bytes `offset..offset + length` of the state.
    pub fn chunks(&self, offset: u64, length: u64) -> &[ChunkRef] {
        &self.content[self.overlapping(offset, offset.saturating_add(length).min(self.length))]
    }

    /// Bytes that a chunk takes in the pack that serves it.
    pub fn encoded(&self, id: &ChunkId) -> Option<u32> {
        let chosen = self.pack_of.get(id)?;
        self.chunks.placement().places(id).find(|p| p.pack.name == *chosen).map(|p| p.entry.encoded)
    }

    /// All chunks that the snapshot needs, those of its structure and content tree and the bases of deltas included.
    pub fn closure(&self) -> HashSet<ChunkId> {
        self.pack_of.keys().copied().collect()
    }

    /// Names of the packs that serve it.
    pub fn packs(&self) -> HashSet<PackName> {
        self.pack_of.values().copied().collect()
    }

    /// Reads and verifies a chunk of the content; where its pack is damaged, from any other that holds it.
    pub(super) fn chunk(&self, index: usize, scratch: &mut Scratch, dst: &mut [u8]) -> Result<()> {
        let id = &self.content[index].id;
        self.chunks.read_choosing(id, self.pack_of.get(id), dst, scratch).map_err(|e| self.name(e, vec![index]))
    }

    /// Refuses before anything is read where one of these chunks is in no pack.
    pub(super) fn refuse_lost(&self, mut indices: impl Iterator<Item = usize>) -> Result<()> {
        match &self.gone {
            Some(gone) if indices.any(|i| !self.pack_of.contains_key(&self.content[i].id)) => {
                Err(self.told(gone.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The chunks that overlap `start..end`: index range.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        if start >= end {
            return 0..0;
        }
        let first = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        first..self.starts.partition_point(|&s| s < end)
    }

    /// Fills all destinations, verified. On an error some hold bytes, but never wrong ones that were reported as right.
    pub fn read(&self, wants: Vec<Want<'_>>, task: &Task<'_>) -> Result<()> {
        let mut fills: HashMap<usize, Vec<(usize, &mut [u8])>> = HashMap::new();
        for want in wants {
            let end = want.offset.checked_add(want.to.len() as u64).filter(|&e| e <= self.length);
            let end = end.ok_or_else(|| Error::invalid("bytes outside the state were asked for"))?;
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
