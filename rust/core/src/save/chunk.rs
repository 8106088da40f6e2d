//! The chunks of a save, from the source to a pack.

use crate::format::pack::{Codec, Kind};
use crate::format::tree::ChunkRef;
use crate::layout::pieces::Piece;
use crate::save::bases::Candidate;

/// The input of a worker.
pub(super) enum Job<'a> {
    /// A piece of the layout, with its index if it may become a delta.
    Piece(&'a Piece, Option<usize>),
    /// Bytes of a literal chunk or of metadata.
    Bytes(Vec<u8>, Kind),
}

/// The output of a worker.
pub(super) enum Chunk {
    /// A chunk that an earlier save has stored.
    Known { id: ChunkRef, kind: Kind, cost: Cost },
    /// A chunk to store.
    New { id: ChunkRef, kind: Kind, form: Form },
}

impl Chunk {
    pub(super) fn id(&self) -> ChunkRef {
        match self {
            Self::Known { id, .. } | Self::New { id, .. } => *id,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Known { kind, .. } | Self::New { kind, .. } => *kind,
        }
    }
}

/// The encoded forms of a new chunk.
pub(super) enum Form {
    /// Stored whole.
    Whole(Codec, Vec<u8>),
    /// As a delta, and also whole if the restore budget may refuse the delta.
    Delta(Delta, Option<(Codec, Vec<u8>)>),
}

pub(super) struct Delta {
    pub(super) base: Candidate,
    pub(super) bytes: Vec<u8>,
    pub(super) cost: Cost,
}

/// Bytes that a restore reads for a chunk, and would read if the chunk were stored whole.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) reads: u64,
    pub(super) whole: u64,
}

impl Cost {
    /// What the chunk adds to the restore budget: 1.5 times its whole size, minus what is read for it.
    pub(super) fn credit(self) -> i64 {
        (self.whole + self.whole / 2) as i64 - self.reads as i64
    }
}
