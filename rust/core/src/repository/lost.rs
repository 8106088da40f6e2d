//! Losses: which snapshots, files and tensors need chunks that no pack holds undamaged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::closure::{check_density, walk};
use crate::chunks::placement::Location;
use crate::chunks::read::{Chunks, Scratch};
use crate::error::{ErrorKind, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::snapshot::Snapshot;
use crate::format::structure::{Structure, holders};
use crate::format::tree::ChunkRef;

/// What is lost of a snapshot.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Lost {
    /// The number of the snapshot.
    pub snapshot: u64,
    /// The id of the snapshot; `None` if its file cannot be read.
    pub id: Option<String>,
    /// The name of its series; `None` if its file cannot be read.
    pub series: Option<String>,
    /// Its epoch, counted from 0; `None` if it has none, or its file cannot be read.
    pub epoch: Option<i64>,
    /// Whether nothing of it can be read, because its file, its structure or its content tree is lost.
    pub everything: bool,
    /// The paths of the files that have lost bytes.
    pub files: Vec<String>,
    /// The tensors that have lost bytes, each with its file and its name. Training tensors have no file.
    pub tensors: Vec<(Option<String>, String)>,
}

/// Looks for a chunk in other copies, and stores it in the repository if it is found.
pub(crate) type Elsewhere<'a> = dyn FnMut(&ChunkId) -> Result<Option<Vec<u8>>> + 'a;

/// A search for chunks: in packs, else in other copies.
pub(crate) struct Search<'a> {
    chunks: &'a Chunks,
    damaged: &'a HashSet<(PackName, ChunkId)>,
    elsewhere: &'a mut Elsewhere<'a>,
    scratch: Scratch,
    known: HashMap<ChunkId, bool>,
    nodes: HashMap<ChunkId, Arc<Vec<u8>>>,
}

impl<'a> Search<'a> {
    /// Searches `chunks`, except for the places that are known to be damaged.
    pub(crate) fn new(
        chunks: &'a Chunks,
        damaged: &'a HashSet<(PackName, ChunkId)>,
        elsewhere: &'a mut Elsewhere<'a>,
    ) -> Self {
        let (known, nodes) = (HashMap::new(), HashMap::new());
        Self { chunks, damaged, elsewhere, scratch: Scratch::new(), known, nodes }
    }

    fn places(&self, id: &ChunkId) -> Vec<Location<'a>> {
        self.chunks.placement().places(id).filter(|p| !self.damaged.contains(&(p.pack.name, p.entry.id))).collect()
    }

    /// Whether the chunk is in a pack, or was found elsewhere.
    fn has(&mut self, id: &ChunkId) -> Result<bool> {
        if let Some(&known) = self.known.get(id) {
            return Ok(known);
        }
        self.known.insert(*id, false); // breaks cycles of bases in hostile input
        let mut there = false;
        for place in self.places(id) {
            there = there
                || match place.entry.base {
                    Some(base) => self.has(&base)?,
                    None => true,
                };
        }
        let there = there || (self.elsewhere)(id)?.is_some();
        self.known.insert(*id, there);
        Ok(there)
    }

    /// The bytes of a node, or of a part of a structure; `None` if they are lost.
    fn metadata(&mut self, chunk: &ChunkRef) -> Result<Option<Arc<Vec<u8>>>> {
        if let Some(bytes) = self.nodes.get(&chunk.id) {
            return Ok(Some(Arc::clone(bytes)));
        }
        let mut raw = vec![0; chunk.len as usize];
        let mut found = None;
        for place in self.places(&chunk.id) {
            match self.chunks.read_at(place, &mut raw, &mut self.scratch) {
                Ok(()) => {
                    found = Some(raw);
                    break;
                }
                Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Cancelled) => return Err(e),
                Err(_) => {}
            }
        }
        let found = match found {
            None => (self.elsewhere)(&chunk.id)?,
            found => found,
        };
        let bytes = found.map(Arc::new);
        self.known.insert(chunk.id, bytes.is_some());
        self.nodes.extend(bytes.iter().map(|b| (chunk.id, Arc::clone(b))));
        Ok(bytes)
    }

    /// The parts of the state that are lost; `None` if the content tree itself is lost.
    fn missing(&mut self, snapshot: &Snapshot) -> Result<Option<Vec<(u64, u64)>>> {
        let mut refused = None;
        let content = walk(&snapshot.body.state, |node| {
            let bytes = self.metadata(node).inspect_err(|e| refused = Some(e.clone()))?;
            let bytes = bytes.ok_or_else(|| self.chunks.placement().missing(&node.id))?;
            ChunkRef::parse_node(&bytes).map(Arc::new)
        });
        let content = match (refused, content) {
            (Some(refused), _) => return Err(refused),
            (None, Err(_)) => return Ok(None),
            (None, Ok(content)) => content,
        };
        let (mut at, mut missing) = (0, vec![]);
        for chunk in &content {
            let end = at + u64::from(chunk.len);
            if !self.has(&chunk.id)? {
                missing.push((at, end));
            }
            at = end;
        }
        Ok(Some(missing))
    }

    fn structure(&mut self, snapshot: &Snapshot) -> Result<Option<Structure>> {
        let chunks = &snapshot.body.state.structure;
        if check_density(self.chunks.placement(), chunks).is_err() {
            return Ok(None);
        }
        let mut bytes = vec![];
        for chunk in chunks {
            match self.metadata(chunk)? {
                Some(part) => bytes.extend_from_slice(&part),
                None => return Ok(None),
            }
        }
        Ok(Structure::parse(&bytes, snapshot.body.state.length).ok())
    }

    /// What is lost of a snapshot; `None` if nothing is.
    pub(crate) fn lost(&mut self, snapshot: &Snapshot) -> Result<Option<Lost>> {
        let structure = self.structure(snapshot)?;
        let missing = self.missing(snapshot)?;
        if structure.is_some() && missing.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let everything = structure.is_none() || missing.is_none();
        let missing = missing.unwrap_or_else(|| vec![(0, snapshot.body.state.length)]);
        let (files, tensors) = structure.map_or_else(Default::default, |structure| holders(&structure, &missing));
        Ok(Some(Lost {
            snapshot: snapshot.number,
            id: Some(snapshot.id.clone()),
            series: Some(snapshot.body.series.clone()),
            epoch: snapshot.body.epoch,
            everything,
            files,
            tensors,
        }))
    }
}
