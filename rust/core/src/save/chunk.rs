//! The chunks of a save on their way from the source to a pack.

use crate::format::pack::{Codec, Kind};
use crate::format::tree::ChunkRef;
use crate::layout::pieces::Piece;
use crate::save::bases::Candidate;

/// What a worker is given.
pub(super) enum Job<'a> {
    /// With its number, if it may become a delta.
    Piece(&'a Piece, Option<usize>),
    Bytes(Vec<u8>, Kind),
}

/// What a worker gives back.
pub(super) enum Chunk {
    /// It is stored already.
    Known { id: ChunkRef, kind: Kind, cost: Cost },
    /// It is to be stored.
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

/// How a new chunk could be stored.
pub(super) enum Form {
    /// By itself.
    Whole(Codec, Vec<u8>),
    /// As a difference, unless that would make restores read too much; then by itself, if there is anything to choose.
    Delta(Delta, Option<(Codec, Vec<u8>)>),
}

pub(super) struct Delta {
    pub(super) base: Candidate,
    pub(super) bytes: Vec<u8>,
    pub(super) cost: Cost,
}

/// Bytes that reading a chunk takes, and would take if it were stored by itself.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    pub(super) reads: u64,
    pub(super) whole: u64,
}

impl Cost {
    /// What the chunk leaves others to read, if all together may read half as much again as without deltas.
    pub(super) fn credit(self) -> i64 {
        (self.whole + self.whole / 2) as i64 - self.reads as i64
    }
}
