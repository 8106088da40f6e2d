//! The budget of a save: in which form a new chunk is stored, so that a restore never reads more than half as much again as
//! without deltas, and how much may be stored once more.

use std::collections::HashSet;

use crate::chunks::pack_writer::Encoded;
use crate::format::digest::ChunkId;
use crate::format::pack::{Codec, Kind};
use crate::format::tree::ChunkRef;
use crate::save::chunk::{Cost, Form};

/// From this age on a base is only kept where restores are far from reading too much: so dense updates, where they are not,
/// renew a third of the chunks with each version, and the differences stay small.
const OLD: u8 = 3;
/// How far: so many chunks like the one in question.
const FAR: i64 = 8;

/// What the chunks of a state, as far as they are known, have cost and may still cost.
#[derive(Default)]
pub(super) struct Budget {
    /// What a restore may read more.
    pub(super) credit: i64,
    /// Whether a chunk is stored as a delta.
    pub(super) deltas: bool,
    /// Bases of deltas that this save has stored.
    pub(super) bases: HashSet<ChunkId>,
    /// Raw bytes of the chunks that were new, and what they take in packs.
    pub(super) bytes_new: u64,
    pub(super) bytes_encoded: u64,
}

/// The form that was chosen for a chunk.
pub(super) struct Chosen {
    codec: Codec,
    base: Option<ChunkId>,
    bytes: Vec<u8>,
}

impl Chosen {
    pub(super) fn encoded(&self, id: ChunkRef, kind: Kind) -> Encoded<'_> {
        Encoded { id, kind, codec: self.codec, base: self.base, bytes: &self.bytes }
    }
}

impl Budget {
    /// Counts a chunk that is stored already.
    pub(super) fn count_known(&mut self, cost: Cost) {
        self.credit += cost.credit();
        self.deltas |= cost.reads > cost.whole;
    }

    /// Counts a chunk that was not stored by an earlier save.
    pub(super) fn count_new(&mut self, id: ChunkRef, chosen: &Chosen) {
        self.bytes_new += u64::from(id.len);
        self.bytes_encoded += chosen.bytes.len() as u64;
    }

    /// Decides, in state order, whether a chunk becomes a delta.
    pub(super) fn choose(&mut self, form: Form) -> Chosen {
        let chosen = match form {
            Form::Whole(codec, bytes) => self.take_whole(codec, bytes),
            Form::Delta(delta, whole) => {
                let credit = self.credit + delta.cost.credit();
                let enough = if delta.base.age < OLD { 0 } else { FAR * delta.cost.whole as i64 };
                match whole {
                    Some((codec, bytes)) if credit < enough => self.take_whole(codec, bytes),
                    _ => {
                        self.credit = credit;
                        Chosen { codec: Codec::Delta, base: Some(delta.base.id), bytes: delta.bytes }
                    }
                }
            }
        };
        self.deltas |= chosen.base.is_some();
        self.bases.extend(chosen.base);
        chosen
    }

    fn take_whole(&mut self, codec: Codec, bytes: Vec<u8>) -> Chosen {
        let len = bytes.len() as u64;
        self.credit += Cost { reads: len, whole: len }.credit();
        Chosen { codec, base: None, bytes }
    }
}
