//! The content tree and the structure of a state, cut into chunks.

use crate::error::Result;
use crate::format::digest::{ChunkId, Digest};
use crate::format::pack::Kind;
use crate::format::snapshot::State;
use crate::format::tree::{ChunkRef, nodes};
use crate::layout::cdc::{METADATA_CDC, cut};
use crate::save::chunk::Job;

/// The most entries in the snapshot file itself. A longer content list becomes a tree.
pub(super) const ROOT: usize = 32;

/// The content list of a state, and the metadata chunks that describe it.
pub(super) struct Tree {
    pub(super) content: Vec<ChunkRef>,
    root: Vec<ChunkRef>,
    depth: u32,
    structure: Vec<ChunkRef>,
    pub(super) metadata: Vec<(ChunkRef, Kind, Vec<u8>)>,
}

impl Tree {
    pub(super) fn build(content: Vec<ChunkRef>, structure: Vec<u8>) -> Self {
        let mut tree = Self { root: content.clone(), content, depth: 0, structure: vec![], metadata: vec![] };
        while tree.root.len() > ROOT {
            let nodes = nodes(&tree.root);
            tree.root = nodes.into_iter().map(|bytes| tree.add(Kind::Node, bytes)).collect();
            tree.depth += 1;
        }
        tree.structure =
            cut(&structure, METADATA_CDC).into_iter().map(|c| tree.add(Kind::Structure, c.to_vec())).collect();
        tree
    }

    fn add(&mut self, kind: Kind, bytes: Vec<u8>) -> ChunkRef {
        let id = ChunkRef { id: Digest::of(&bytes), len: bytes.len() as u32 };
        self.metadata.push((id, kind, bytes));
        id
    }

    pub(super) fn jobs<'a>(&self) -> impl FnMut() -> Result<Option<Job<'a>>> + use<'a> {
        let mut jobs: Vec<_> =
            self.metadata.iter().rev().map(|(_, kind, bytes)| Job::Bytes(bytes.clone(), *kind)).collect();
        move || Ok(jobs.pop())
    }

    pub(super) fn closure(&self) -> impl Iterator<Item = ChunkId> {
        self.content.iter().map(|c| c.id).chain(self.metadata.iter().map(|m| m.0.id))
    }

    pub(super) fn state(self, length: u64) -> State {
        State { length, structure: self.structure, depth: self.depth, root: self.root }
    }
}
