//! The restore budget: decides whether a new chunk is stored whole or as a delta, so that a restore reads at most 1.5
//! times the bytes that it would read without deltas.

use std::collections::HashSet;

use crate::chunks::pack_writer::Encoded;
use crate::format::digest::ChunkId;
use crate::format::pack::{Codec, Kind};
use crate::format::tree::ChunkRef;
use crate::save::chunk::{Cost, Form};

/// From this age on, a delta needs slack in the restore budget. Dense updates have none, so a third of their chunks is
/// stored whole with each version, and the deltas stay small.
const OLD: u8 = 3;
/// The slack that the restore budget must have then, in multiples of the size of the chunk when it is stored whole.
const FAR: i64 = 8;

/// The budget, after the chunks of the state so far.
#[derive(Default)]
pub(super) struct Budget {
    /// What is left of the budget in bytes: 1.5 times the whole chunks, minus what is read for them. Negative if a
    /// restore reads too much.
    pub(super) credit: i64,
    /// Whether a chunk of the state is stored as a delta.
    pub(super) deltas: bool,
    /// The bases of the deltas that this save has stored.
    pub(super) bases: HashSet<ChunkId>,
    /// Raw bytes of the new chunks.
    pub(super) bytes_new: u64,
    /// Encoded bytes of the new chunks.
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
    /// Counts a chunk that an earlier save has stored.
    pub(super) fn count_known(&mut self, cost: Cost) {
        self.credit += cost.credit();
        self.deltas |= cost.reads > cost.whole;
    }

    /// Counts a chunk that no earlier save has stored.
    pub(super) fn count_new(&mut self, id: ChunkRef, chosen: &Chosen) {
        self.bytes_new += u64::from(id.len);
        self.bytes_encoded += chosen.bytes.len() as u64;
    }

    /// Decides whether a chunk becomes a delta. It is called in the order of the state.
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
