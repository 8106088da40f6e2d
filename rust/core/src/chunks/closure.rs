//! What a state needs: its structure, its content, and the nodes of its content tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::chunks::placement::Placement;
use crate::chunks::read::{Chunks, Scratch};
use crate::error::{Error, Result};
use crate::format::digest::ChunkId;
use crate::format::limits::most_chunks;
use crate::format::snapshot::State;
use crate::format::structure::Structure;
use crate::format::tree::ChunkRef;

/// A structure of up to 16 MiB is always accepted.
const FREE_STRUCTURE: u64 = 16 << 20;
/// A longer one has at most 256 times its stored size. A real one has at most 20 times its stored size, because names
/// differ; without a limit, 10 KB of hostile input could fill gigabytes of memory.
const DENSEST_STRUCTURE: u64 = 256;

/// Refuses a structure that is far larger than its stored chunks. Chunks that are in no pack do not count.
pub(crate) fn check_density(placement: &Placement, structure: &[ChunkRef]) -> Result<()> {
    let (mut length, mut stored, mut seen) = (0, 0, HashSet::new());
    for chunk in structure {
        let Some(encoded) = placement.places(&chunk.id).map(|p| u64::from(p.entry.encoded)).min() else { continue };
        length += u64::from(chunk.len);
        stored += if seen.insert(chunk.id) { encoded } else { 0 };
    }
    if length > FREE_STRUCTURE.max(DENSEST_STRUCTURE * stored) {
        return Err(Error::corrupt(format!("a structure of {length} bytes cannot be stored as {stored}")));
    }
    Ok(())
}

/// Reads the structure of a state.
pub(crate) fn structure(chunks: &Chunks, state: &State) -> Result<Structure> {
    check_density(chunks.placement(), &state.structure)?;
    let mut scratch = Scratch::new();
    let mut bytes = vec![];
    for chunk in &state.structure {
        bytes.extend(chunks.read_small(chunk, &mut scratch)?);
    }
    Structure::parse(&bytes, state.length)
}

/// The chunks that a state needs.
#[derive(Debug)]
pub(crate) struct Closure {
    /// The chunks of its content, in order and with repetitions.
    pub(crate) content: Vec<ChunkRef>,
    /// The chunks of its structure and the nodes of its content tree.
    pub(crate) metadata: HashSet<ChunkId>,
}

impl Closure {
    /// The ids of all chunks.
    pub(crate) fn ids(self) -> HashSet<ChunkId> {
        let mut ids = self.metadata;
        ids.extend(self.content.iter().map(|c| c.id));
        ids
    }
}

/// Walks the content tree of a state from its root to its content. `read` returns the entries of a node.
pub(crate) fn walk(
    state: &State,
    mut read: impl FnMut(&ChunkRef) -> Result<Arc<Vec<ChunkRef>>>,
) -> Result<Vec<ChunkRef>> {
    let mut content = state.root.clone();
    for _ in 0..state.depth {
        let mut below = vec![];
        for node in &content {
            below.extend_from_slice(&read(node)?);
            // A chunk has at least one byte, so a list that is longer than the state is damaged. Stop before it fills
            // memory.
            if below.len() as u64 > most_chunks(state.length) {
                return Err(Error::corrupt("the content tree lists more chunks than the state can have"));
            }
        }
        content = below;
    }
    let bytes = content.iter().map(|c| u64::from(c.len)).sum::<u64>();
    if bytes != state.length {
        return Err(Error::corrupt(format!("the content list has {bytes} bytes, the state {}", state.length)));
    }
    Ok(content)
}

/// Nodes that were read before.
pub(crate) type Nodes = HashMap<ChunkId, Arc<Vec<ChunkRef>>>;

/// Reads the content tree of a state. `nodes` keeps what was read, because snapshots share nodes.
pub(crate) fn closure(chunks: &Chunks, state: &State, nodes: &mut Nodes) -> Result<Closure> {
    let mut scratch = Scratch::new();
    let mut metadata: HashSet<ChunkId> = state.structure.iter().map(|c| c.id).collect();
    let content = walk(state, |node| {
        metadata.insert(node.id);
        if let Some(entries) = nodes.get(&node.id) {
            return Ok(Arc::clone(entries));
        }
        let entries = Arc::new(ChunkRef::parse_node(&chunks.read_small(node, &mut scratch)?)?);
        nodes.insert(node.id, Arc::clone(&entries));
        Ok(entries)
    })?;
    Ok(Closure { content, metadata })
}
