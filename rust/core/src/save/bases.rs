//! Bases: for each chunk of a save, the chunk that it may be stored as the difference to.
//!
//! The candidate for a piece is the chunk that the newest snapshot of the series has at the same place of the same
//! tensor. If that is a delta, the candidate is its base, because a base is never a delta. Only the content list of one
//! snapshot is read, 36 bytes per chunk, however long the series is. The age of a base is stored in the delta.

use std::collections::{HashMap, HashSet};

use crate::chunks::closure::{Closure, Nodes, closure, structure};
use crate::chunks::placement::{Location, Stored};
use crate::chunks::read::{Chunks, Scratch};
use crate::codec::{self, CodecChoice, Glimpse};
use crate::error::Result;
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::dtype::Element;
use crate::format::pack::Codec;
use crate::format::snapshot::Snapshot;
use crate::format::structure::Structure;
use crate::format::tree::ChunkRef;
use crate::layout::cdc::{METADATA_CDC, cut};
use crate::layout::pieces::{Layout, Piece, TensorAt};

/// The most versions that use a base. Then the chunk is stored whole, so that nothing depends on old packs for ever.
pub(crate) const MAX_AGE: u8 = 8;
/// With `Auto`, a base is read only if at least this fraction of the elements kept the byte that the glimpse shows.
/// With fewer, the delta would be larger than the codec accepts.
const KEPT: (usize, usize) = (1, 8);
/// The fraction if half of an element or more is below that byte. A change of the byte changes all bytes below, which
/// then do not shrink: for float32 with a third kept, the delta takes 0.7 of the whole chunk.
const KEPT_ABOVE_NOISE: (usize, usize) = (2, 5);

/// A candidate for the base of a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    /// The id of the base.
    pub(crate) id: ChunkId,
    /// Its encoded bytes.
    pub(crate) encoded: u32,
    /// The age of the delta: how many versions, this one included, have used the base.
    pub(crate) age: u8,
}

/// The candidates of one save.
#[derive(Debug)]
pub(crate) struct Bases<'a> {
    chunks: &'a Chunks,
    /// Packs whose chunks must not become bases: condemned packs, and packs that are mostly unused.
    avoid: HashSet<PackName>,
    /// For each piece, the chunk that the newest snapshot has in its place.
    before: Vec<Option<ChunkRef>>,
}

impl<'a> Bases<'a> {
    /// Finds the candidates in `newest` for a save of `layout`.
    pub(crate) fn find(
        chunks: &'a Chunks,
        newest: &Snapshot,
        layout: &Layout,
        condemned: &HashSet<PackName>,
    ) -> Result<Self> {
        let state = &newest.body.state;
        let Closure { content, metadata } = closure(chunks, state, &mut Nodes::new())?;
        let places = Places::of(layout, newest, chunks)?;
        let mut starts = Vec::with_capacity(content.len());
        let mut at = 0;
        for chunk in &content {
            starts.push(at);
            at += u64::from(chunk.len);
        }
        let before = |(index, piece): (usize, &Piece)| {
            let place = places.before(piece, layout.starts[index])?;
            let chunk = content[starts.binary_search(&place).ok()?];
            (u64::from(chunk.len) == piece.len()).then_some(chunk)
        };
        let before = layout.pieces.iter().enumerate().map(before).collect();
        let known = chunks.placement();
        let serving = known.serve(&Closure { content, metadata }.ids())?;
        let avoid = known.sparse(&serving).map(|(pack, _)| pack.name).chain(condemned.iter().copied()).collect();
        Ok(Self { chunks, avoid, before })
    }

    /// The candidate for a piece, if there is one.
    pub(crate) fn of(&self, piece: usize) -> Option<Candidate> {
        let before = self.before.get(piece).copied().flatten()?;
        let (id, age) = match self.chunks.placement().stored(&before.id, &HashSet::new())? {
            Stored::Whole => (before.id, 1),
            Stored::Delta(base) => (base, self.age(&before.id)?.checked_add(1)?),
        };
        let encoded = self.whole(&id)?.entry.encoded;
        (age <= MAX_AGE).then_some(Candidate { id, encoded, age })
    }

    fn whole(&self, id: &ChunkId) -> Option<Location<'_>> {
        self.chunks.placement().whole(id, &self.avoid).min_by_key(|p| p.pack.name)
    }

    /// The age of a stored delta.
    fn age(&self, id: &ChunkId) -> Option<u8> {
        let place = self.chunks.placement().readable(id, &HashSet::new()).min_by_key(|p| p.pack.name)?;
        let mut head = [0; codec::DELTA_HEAD];
        if place.entry.encoded < head.len() as u32 {
            return None;
        }
        self.chunks.read_encoded(place, 0, &mut head).ok()?;
        Some(codec::delta_age(head))
    }

    /// Reads and verifies the base into `buffer`. `false` if a delta is not worth it, or if the base is damaged: then
    /// the chunk is stored whole.
    pub(crate) fn read(
        &self,
        base: &Candidate,
        raw: &[u8],
        element: Element,
        choice: CodecChoice,
        scratch: &mut Scratch,
        buffer: &mut Vec<u8>,
    ) -> bool {
        let Some(place) = self.whole(&base.id) else { return false };
        if choice == CodecChoice::Auto && self.has_changed(place, raw, element, scratch, buffer).unwrap_or(false) {
            return false;
        }
        buffer.resize(raw.len(), 0);
        self.chunks.read_at(place, buffer, scratch).is_ok()
    }

    /// Whether a glimpse of the base shows that the chunk has too little in common with it. At most one plane is
    /// decoded. `None` if there is no glimpse.
    fn has_changed(
        &self,
        place: Location<'_>,
        raw: &[u8],
        element: Element,
        scratch: &mut Scratch,
        plane: &mut Vec<u8>,
    ) -> Option<bool> {
        if place.entry.codec != Codec::Planes || place.entry.raw as usize != raw.len() {
            return None;
        }
        let mut header = [0; Glimpse::HEADER];
        let header = &mut header[..Glimpse::HEADER.min(place.entry.encoded as usize)];
        self.chunks.read_encoded(place, 0, header).ok()?;
        let glimpse = Glimpse::new(header, raw.len(), element.width)?;
        if glimpse.coded {
            plane.resize(glimpse.plane_len, 0);
            self.chunks.read_frame(place, glimpse.offset, glimpse.encoded, plane, scratch).ok()?;
        }
        let (mut seen, mut kept) = (0, 0);
        let mut bytes = [0; Glimpse::RUN];
        for (first, len) in glimpse.runs() {
            let run = if glimpse.coded {
                &plane[first..][..len]
            } else {
                self.chunks.read_encoded(place, glimpse.offset + first, &mut bytes[..len]).ok()?;
                &bytes[..len]
            };
            kept += glimpse.equal(raw, first, run);
            seen += len;
        }
        let (part, whole) = if glimpse.is_above_noise() { KEPT_ABOVE_NOISE } else { KEPT };
        Some(kept * whole < seen * part)
    }
}

/// Where the tensors of a layout are in the newest snapshot.
enum Places<'a> {
    /// At the same places.
    Same,
    /// Found by their names and the index of their file. Not by the path, which often contains the epoch.
    Named(&'a Structure, HashMap<(Option<usize>, String), u64>),
}

impl<'a> Places<'a> {
    fn of(layout: &'a Layout, newest: &Snapshot, chunks: &Chunks) -> Result<Self> {
        let state = &newest.body.state;
        let bytes = layout.structure.to_bytes()?;
        let cut = cut(&bytes, METADATA_CDC);
        if cut.iter().map(|c| Digest::of(c)).eq(state.structure.iter().map(|c| c.id)) {
            return Ok(Self::Same);
        }
        let before = structure(chunks, state)?;
        let files = before.files.into_iter().enumerate().map(|(file, entry)| (Some(file), entry.tensors));
        let places = files
            .chain([(None, before.training)])
            .flat_map(|(file, tensors)| tensors.into_iter().map(move |tensor| ((file, tensor.name), tensor.offset)));
        Ok(Self::Named(&layout.structure, places.collect()))
    }

    /// The first byte, in the newest snapshot, of a piece that begins at `start` now.
    fn before(&self, piece: &Piece, start: u64) -> Option<u64> {
        let (at, within) = match piece {
            Piece::Run { at, start, .. } => (at, *start),
            Piece::Group { members, .. } => (&members.first()?.0, 0),
            Piece::Literals { .. } => return None,
        };
        match self {
            Self::Same => Some(start),
            Self::Named(structure, places) => Some(places.get(&name(structure, at)?)? + within),
        }
    }
}

fn name(structure: &Structure, at: &TensorAt) -> Option<(Option<usize>, String)> {
    let file = structure.files.get(at.file);
    let tensors = file.map_or(&structure.training, |f| &f.tensors);
    Some((file.map(|_| at.file), tensors.get(at.tensor)?.name.clone()))
}
