//! The writer: writes a state into packs.
//!
//! Several threads hash the chunks and encode those that are new, while they are in cache. One thread takes them in the
//! order of the state and writes packs. So the same input gives the same packs, whatever the number of threads.

use std::collections::HashSet;
use std::path::Path;

use crate::chunks::pack_writer::PackWriter;
use crate::chunks::placement::{Pack, Placement, Stored};
use crate::chunks::read;
use crate::codec::{self, CodecChoice, Encoder};
use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::dtype::Element;
use crate::format::limits::most_chunks;
use crate::format::pack::Kind;
use crate::format::snapshot::State;
use crate::format::tree::ChunkRef;
use crate::layout::pieces::{Layout, Piece};
use crate::layout::source::{StateSource, read_piece};
use crate::save::bases::{Bases, Candidate};
use crate::save::budget::Budget;
use crate::save::chunk::{Chunk, Cost, Delta, Form, Job};
use crate::save::literals::Cutter;
use crate::save::tree::Tree;
use crate::task::Task;

/// What the writer wrote.
#[derive(Debug)]
pub(crate) struct Written {
    /// Where the state is stored.
    pub(crate) state: State,
    /// The new packs, in the order in which they were filled.
    pub(crate) packs: Vec<Pack>,
    /// Raw bytes of the chunks that no earlier save has stored.
    pub(crate) bytes_new: u64,
    /// Bytes of the new packs.
    pub(crate) bytes_stored: u64,
    /// Whether a chunk of the state is stored as a delta.
    pub(crate) deltas: bool,
}

/// The options of a save.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// The codec for new chunks.
    pub(crate) codec: CodecChoice,
    /// Raw bytes that will probably be new. They decide the size of packs.
    pub(crate) expected_new: u64,
}

/// The writer of one save.
pub(crate) struct Writer<'a> {
    pub(super) layout: &'a Layout,
    pub(super) source: &'a dyn StateSource,
    pub(super) known: &'a Placement,
    pub(super) condemned: &'a HashSet<PackName>,
    bases: Option<&'a Bases<'a>>,
    options: Options,
    pub(super) task: &'a Task<'a>,
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The encoder and the buffers of one worker.
pub(super) struct Scratch {
    encoder: Encoder,
    read: Vec<u8>,
    joined: Vec<u8>,
    reader: read::Scratch,
    base: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { encoder: Encoder::new(), read: vec![], joined: vec![], reader: read::Scratch::new(), base: vec![] }
    }
}

/// The packs that are being filled, and the restore budget.
pub(super) struct Filling {
    pub(super) packs: PackWriter,
    pub(super) budget: Budget,
}

impl Filling {
    /// Stores a chunk, unless it is stored already. `new`: no earlier save has stored it.
    pub(super) fn add(&mut self, chunk: Chunk, new: bool) -> Result<()> {
        match chunk {
            Chunk::Known { cost, .. } => self.budget.count_known(cost),
            Chunk::New { id, kind, form } if !self.packs.has(&id.id) => {
                let chosen = self.budget.choose(form);
                if new {
                    self.budget.count_new(id, &chosen);
                }
                self.packs.add(&chosen.encoded(id, kind))?;
            }
            Chunk::New { .. } => {}
        }
        Ok(())
    }
}

impl<'a> Writer<'a> {
    /// A writer for one save.
    pub(crate) fn new(
        layout: &'a Layout,
        source: &'a dyn StateSource,
        known: &'a Placement,
        condemned: &'a HashSet<PackName>,
        bases: Option<&'a Bases<'a>>,
        options: Options,
        task: &'a Task<'a>,
    ) -> Self {
        Self { layout, source, known, condemned, bases, options, task }
    }

    /// Writes packs in the folder `temp` and moves them to the folder `packs`.
    pub(crate) fn write(&self, temp: &Path, packs: &Path) -> Result<Written> {
        let target = (self.options.expected_new / 16).clamp(8 << 20, 64 << 20);
        let mut filling =
            Filling { packs: PackWriter::new(temp, packs, target, self.condemned.clone()), budget: Budget::default() };
        let mut content = vec![];
        self.task.begin("saving", self.layout.length);
        self.store(self.content_jobs(), &mut filling, |c| content.push(c))?;
        let (found, most) = (content.len() as u64, most_chunks(self.layout.length));
        if found > most {
            let length = self.layout.length;
            return Err(Error::invalid(format!(
                "the state of {length} bytes has {found} chunks; at most {most} are supported"
            )));
        }
        self.source.finish()?;
        let tree = Tree::build(content, self.layout.structure.to_bytes()?);
        self.store(tree.jobs(), &mut filling, |_| ())?;
        let (bytes_new, deltas) = (filling.budget.bytes_new, filling.budget.deltas);
        self.repack(&tree, &mut filling)?;
        let packs = filling.packs.finish()?;
        let bytes_stored = packs.iter().map(|p| p.length).sum();
        Ok(Written { state: tree.state(self.layout.length), packs, bytes_new, bytes_stored, deltas })
    }

    /// Runs jobs: hashes the chunks, looks them up, encodes new ones and adds them to packs.
    fn store(
        &self,
        jobs: impl FnMut() -> Result<Option<Job<'a>>> + Send,
        filling: &mut Filling,
        mut each: impl FnMut(ChunkRef),
    ) -> Result<()> {
        let window = 4 * self.task.threads() + 4;
        let work = |scratch: &mut Scratch, job: Job<'a>| self.chunk(scratch, job, false);
        self.task.run(window, jobs, Scratch::new, work, |chunk| {
            each(chunk.id());
            if chunk.kind() == Kind::Content {
                self.task.advance(u64::from(chunk.id().len));
            }
            filling.add(chunk, true)
        })
    }

    /// Does one job. With `again` the chunk is encoded even if it is stored already.
    pub(super) fn chunk(&self, scratch: &mut Scratch, job: Job<'_>, again: bool) -> Result<Chunk> {
        let Scratch { encoder, read, joined, reader, base } = scratch;
        let (raw, element, kind, piece) = match &job {
            Job::Piece(piece, number) => {
                let element = match piece {
                    Piece::Run { element, .. } | Piece::Group { element, .. } => *element,
                    Piece::Literals { .. } => Element::OPAQUE,
                };
                (read_piece(self.source, piece, read, joined)?, element, Kind::Content, *number)
            }
            Job::Bytes(bytes, kind) => (bytes.as_slice(), Element::OPAQUE, *kind, None),
        };
        let id = ChunkRef { id: Digest::of(raw), len: raw.len() as u32 };
        if !again && let Some(cost) = self.cost(&id.id) {
            return Ok(Chunk::Known { id, kind, cost });
        }
        let candidate = self.bases.zip(piece).and_then(|(bases, piece)| bases.of(piece));
        let delta = match candidate {
            Some(candidate) => self.delta(encoder, reader, base, raw, element, candidate)?,
            None => None,
        };
        let mut whole =
            || encoder.encode(raw, element, self.options.codec).map(|(codec, bytes)| (codec, bytes.to_vec()));
        let form = match delta {
            // The restore budget never refuses this delta, so the whole chunk need not be encoded.
            Some(delta) if delta.cost.credit() >= 0 => Form::Delta(delta, None),
            Some(delta) => Form::Delta(delta, Some(whole()?)),
            None => whole().map(|(codec, bytes)| Form::Whole(codec, bytes))?,
        };
        Ok(Chunk::New { id, kind, form })
    }

    /// What a restore reads for a chunk that is stored already. `None` if it is not stored, or only in condemned packs.
    pub(super) fn cost(&self, id: &ChunkId) -> Option<Cost> {
        let bytes = |id: &ChunkId| Some(u64::from(self.known.readable(id, self.condemned).next()?.entry.encoded));
        let own = bytes(id)?;
        Some(match self.known.stored(id, self.condemned)? {
            Stored::Whole => Cost { reads: own, whole: own },
            Stored::Delta(base) => bytes(&base).map(|whole| Cost { reads: own + whole, whole })?,
        })
    }

    /// The chunk as a delta to its base; `None` if that saves too little.
    fn delta(
        &self,
        encoder: &mut Encoder,
        reader: &mut read::Scratch,
        buffer: &mut Vec<u8>,
        raw: &[u8],
        element: Element,
        base: Candidate,
    ) -> Result<Option<Delta>> {
        let (Some(bases), Some(share)) = (self.bases, self.options.codec.delta_share()) else { return Ok(None) };
        if !bases.read(&base, raw, element, self.options.codec, reader, buffer) {
            return Ok(None);
        }
        let held = codec::Base { raw: buffer, encoded: base.encoded as usize, age: base.age };
        let delta = encoder.encode_delta(raw, held, element, share)?;
        Ok(delta.map(|delta| Delta {
            base,
            bytes: delta.bytes.to_vec(),
            cost: Cost { reads: u64::from(base.encoded) + delta.bytes.len() as u64, whole: delta.whole as u64 },
        }))
    }

    /// The jobs of the content, in the order of the state.
    fn content_jobs(&self) -> impl FnMut() -> Result<Option<Job<'a>>> + use<'a> {
        let (layout, source) = (self.layout, self.source);
        let mut next = 0;
        let mut cutter: Option<Cutter<'a>> = None;
        move || loop {
            if let Some(open) = &mut cutter {
                if let Some(bytes) = open.next()? {
                    return Ok(Some(Job::Bytes(bytes, Kind::Content)));
                }
                cutter = None;
            }
            let Some(piece) = layout.pieces.get(next) else { return Ok(None) };
            next += 1;
            match piece {
                Piece::Literals { file, len, cdc } => {
                    cutter = Some(Cutter { layout, source, file: *file, len: *len, cdc: *cdc, at: 0, held: vec![] })
                }
                _ => return Ok(Some(Job::Piece(piece, Some(next - 1)))),
            }
        }
    }
}
