//! The writer: from a state to packs and a snapshot body.
//!
//! Chunks are hashed and, if they are new, encoded in parallel while they are in cache; one thread takes them in state
//! order and fills packs, so packs are the same for the same input whatever the number of threads.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::chunks::pack_writer::OpenPack;
use crate::chunks::placement::{Pack, Placement, Stored};
use crate::chunks::read;
use crate::codec::{self, CodecChoice, Encoder};
use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::dtype::Element;
use crate::format::limits::most_chunks;
use crate::format::pack::{self, Codec, Kind};
use crate::format::snapshot::State;
use crate::format::tree::{ChunkRef, nodes};
use crate::layout::cdc::{METADATA_CDC, cut};
use crate::layout::pieces::{Layout, Piece};
use crate::layout::source::{StateSource, read_literals, read_piece};
use crate::save::bases::{Bases, Candidate};
use crate::storage;
use crate::task::{pipeline, progress};

/// Entries that a snapshot file lists itself before a content tree is made.
pub const ROOT: usize = 32;
/// From this age on a base is only kept where restores are far from reading too much: so dense updates, where they are not,
/// renew a third of the chunks with each version, and the differences stay small.
const OLD: u8 = 3;
/// How far: so many chunks like the one in question.
const FAR: i64 = 8;

/// What a save wrote.
#[derive(Debug)]
pub struct Written {
    /// Where the state stands.
    pub state: State,
    /// Packs that were added, in the order they were filled.
    pub packs: Vec<Pack>,
    /// Raw bytes of chunks that were stored for the first time.
    pub bytes_new: u64,
    /// Bytes of the added packs.
    pub bytes_stored: u64,
    /// Whether a chunk is stored as a delta.
    pub deltas: bool,
}

/// How to save.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Codec for new chunks.
    pub codec: CodecChoice,
    /// Threads that hash and encode.
    pub threads: usize,
    /// Raw bytes that are expected to be new; decides the size of packs.
    pub expected_new: u64,
}

/// Everything the steps of a save share.
pub struct Writer<'a> {
    layout: &'a Layout,
    source: &'a dyn StateSource,
    known: &'a Placement,
    condemned: &'a HashSet<PackName>,
    bases: Option<&'a Bases<'a>>,
    options: Options,
    interrupt: &'a (dyn Fn() -> Result<()> + Sync),
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a worker is given.
enum Job<'a> {
    /// With its number, if it may become a delta.
    Piece(&'a Piece, Option<usize>),
    Bytes(Vec<u8>, Kind),
}

/// What a worker gives back.
struct Chunk {
    id: ChunkRef,
    kind: Kind,
    form: Form,
}

/// How a chunk is stored, or could be.
enum Form {
    /// It is already.
    Known(Cost),
    /// By itself.
    Whole(Codec, Vec<u8>),
    /// As a difference, unless that would make restores read too much; then by itself, if there is anything to choose.
    Delta(Delta, Option<(Codec, Vec<u8>)>),
}

struct Delta {
    base: Candidate,
    bytes: Vec<u8>,
    cost: Cost,
}

/// Bytes that reading a chunk takes, and would take if it were stored by itself.
#[derive(Clone, Copy)]
struct Cost {
    reads: u64,
    whole: u64,
}

impl Cost {
    /// What the chunk leaves others to read, if all together may read half as much again as without deltas.
    fn credit(self) -> i64 {
        (self.whole + self.whole / 2) as i64 - self.reads as i64
    }
}

/// A worker's own memory.
struct Scratch {
    encoder: Encoder,
    read: Vec<u8>,
    joined: Vec<u8>,
    reader: read::Scratch,
    base: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { encoder: Encoder::new(), read: vec![], joined: vec![], reader: read::Scratch::new(), base: vec![] }
    }
}

impl<'a> Writer<'a> {
    /// A writer for one save.
    pub fn new(
        layout: &'a Layout,
        source: &'a dyn StateSource,
        known: &'a Placement,
        condemned: &'a HashSet<PackName>,
        bases: Option<&'a Bases<'a>>,
        options: Options,
        interrupt: &'a (dyn Fn() -> Result<()> + Sync),
    ) -> Self {
        Self { layout, source, known, condemned, bases, options, interrupt }
    }

    /// Writes packs to `temp`, moves them to `packs`.
    pub fn write(&self, temp: &Path, packs: &Path) -> Result<Written> {
        let target = (self.options.expected_new / 16).clamp(8 << 20, 64 << 20);
        let mut filler = Filler::new(temp, packs, target, self.condemned);
        let mut content = vec![];
        progress::begin("saving", self.layout.length);
        self.store(self.content_jobs(), &mut filler, |c| content.push(c))?;
        let (found, most) = (content.len() as u64, most_chunks(self.layout.length));
        if found > most {
            let length = self.layout.length;
            return Err(Error::invalid(format!(
                "the state of {length} bytes has {found} chunks; at most {most} are supported"
            )));
        }
        self.source.finish()?;
        let tree = Tree::build(content, self.layout.structure.to_bytes()?);
        self.store(tree.jobs(), &mut filler, |_| ())?;
        let (bytes_new, deltas) = (filler.bytes_new, filler.deltas);
        self.repack(&tree, &mut filler)?;
        let packs = filler.finish()?;
        let bytes_stored = packs.iter().map(|p| p.length).sum();
        Ok(Written { state: tree.state(self.layout.length), packs, bytes_new, bytes_stored, deltas })
    }

    /// Runs jobs through the pipeline: hash, look up, encode; new chunks go to the filler.
    fn store(
        &self,
        mut jobs: impl FnMut() -> Result<Option<Job<'a>>> + Send,
        filler: &mut Filler,
        mut each: impl FnMut(ChunkRef),
    ) -> Result<()> {
        let window = 4 * self.options.threads + 4;
        let work = |scratch: &mut Scratch, job: Job<'a>| self.chunk(scratch, job, false);
        let source = || {
            (self.interrupt)()?;
            jobs()
        };
        pipeline::run(self.options.threads, window, source, Scratch::new, work, |chunk| {
            each(chunk.id);
            if chunk.kind == Kind::Content {
                progress::advance(u64::from(chunk.id.len));
            }
            filler.add(chunk, true)
        })
    }

    fn chunk(&self, scratch: &mut Scratch, job: Job<'_>, again: bool) -> Result<Chunk> {
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
            return Ok(Chunk { id, kind, form: Form::Known(cost) });
        }
        let candidate = self.bases.zip(piece).and_then(|(bases, piece)| bases.of(piece));
        let delta = match candidate {
            Some(candidate) => self.delta(encoder, reader, base, raw, element, candidate)?,
            None => None,
        };
        // Where nothing that is read can be too much, it need not be known what the chunk would be by itself.
        let cheap = delta.as_ref().is_some_and(|d| d.cost.credit() >= 0);
        let whole = if cheap {
            None
        } else {
            let (codec, bytes) = encoder.encode(raw, element, self.options.codec)?;
            Some((codec, bytes.to_vec()))
        };
        let form = match (delta, whole) {
            (Some(delta), whole) => Form::Delta(delta, whole),
            (None, Some((codec, bytes))) => Form::Whole(codec, bytes),
            (None, None) => return Err(Error::invalid("a chunk was not encoded; please report this")),
        };
        Ok(Chunk { id, kind, form })
    }

    /// What reading a chunk that is stored already takes; `None` if it is not, or only where prune may be deleting it.
    fn cost(&self, id: &ChunkId) -> Option<Cost> {
        let bytes = |id: &ChunkId| Some(u64::from(self.known.readable(id, self.condemned).next()?.entry.encoded));
        let own = bytes(id)?;
        Some(match self.known.stored(id, self.condemned)? {
            Stored::Whole => Cost { reads: own, whole: own },
            Stored::Delta(base) => bytes(&base).map(|whole| Cost { reads: own + whole, whole })?,
        })
    }

    /// The chunk as the difference to its base, where that gains enough.
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

    /// The jobs of the content, in state order.
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

    /// Writes live chunks of packs that are mostly dead again, at most as many bytes as this save has added, so that the packs
    /// of the newest snapshot stay close to its live bytes.
    fn repack(&self, tree: &Tree, filler: &mut Filler) -> Result<()> {
        if filler.bytes_encoded == 0 {
            return Ok(());
        }
        let closure: HashSet<ChunkId> =
            tree.closure().filter(|id| self.cost(id).is_some() && !filler.has(id)).collect();
        let mut chosen = self.overdrawn(tree, filler);
        self.choose_sparse(&closure, filler, &mut chosen)?;
        if chosen.is_empty() {
            return Ok(());
        }
        // What has outlived a pack will probably outlive what is new now: in a pack of its own it is not rewritten again.
        filler.close(0)?;
        self.store_again(tree, &chosen, filler)
    }

    /// Deltas of earlier versions that must become whole: what stood beside them and let a restore read more has changed.
    fn overdrawn(&self, tree: &Tree, filler: &Filler) -> HashSet<ChunkId> {
        let (mut credit, mut chosen) = (filler.credit, HashSet::new());
        for id in tree.content.iter().map(|c| c.id).filter(|id| !filler.has(id)) {
            let owed = self.cost(&id).filter(|cost| credit < 0 && cost.credit() < 0);
            if let Some(cost) = owed.filter(|_| chosen.insert(id)) {
                credit += cost.reads as i64 - cost.whole as i64;
            }
        }
        chosen
    }

    /// Chunks of packs that are mostly dead, the emptiest first.
    fn choose_sparse(&self, closure: &HashSet<ChunkId>, filler: &Filler, chosen: &mut HashSet<ChunkId>) -> Result<()> {
        let mut budget = filler.bytes_encoded;
        let alive = closure.iter().chain(&filler.bases).copied().collect();
        let serving = self.known.serve(&alive)?;
        let mut sparse: Vec<(&Pack, u64)> = self.known.sparse(&serving).collect();
        // Fractions are compared crosswise.
        sparse.sort_by(|a, b| {
            (u128::from(a.1) * u128::from(b.0.length))
                .cmp(&(u128::from(b.1) * u128::from(a.0.length)))
                .then(a.0.name.cmp(&b.0.name))
        });
        let served_on = self.served_on(closure);
        let entries = sparse.iter().flat_map(|(pack, _)| pack.entries.iter().map(|e| (pack.name, e)));
        for (_, entry) in entries.filter(|(name, e)| serving.pack_of.get(&e.id) == Some(name)) {
            // A base is not in the state: what needs it is stored whole instead.
            let ids = if closure.contains(&entry.id) {
                vec![entry.id]
            } else {
                served_on.get(&entry.id).cloned().unwrap_or_default()
            };
            let encoded: u64 = ids.iter().filter_map(|id| self.cost(id)).map(|cost| cost.whole).sum();
            if encoded <= budget && !filler.bases.contains(&entry.id) {
                budget -= encoded;
                chosen.extend(ids);
            }
        }
        Ok(())
    }

    /// The chunks that are deltas, under the base of each.
    fn served_on(&self, closure: &HashSet<ChunkId>) -> HashMap<ChunkId, Vec<ChunkId>> {
        let mut found: HashMap<ChunkId, Vec<ChunkId>> = HashMap::new();
        for id in closure {
            if let Some(Stored::Delta(base)) = self.known.stored(id, self.condemned) {
                found.entry(base).or_default().push(*id);
            }
        }
        found
    }

    /// Stores chunks once more, whole, read from the source anew.
    fn store_again(&self, tree: &Tree, chosen: &HashSet<ChunkId>, filler: &mut Filler) -> Result<()> {
        let mut scratch = Scratch::new();
        let mut at = 0;
        for entry in &tree.content {
            let start = at;
            at += u64::from(entry.len);
            if !chosen.contains(&entry.id) || filler.has(&entry.id) {
                continue;
            }
            (self.interrupt)()?;
            let index = self.layout.starts.partition_point(|&s| s <= start) - 1;
            let job = match &self.layout.pieces[index] {
                Piece::Literals { file, .. } => {
                    let mut bytes = vec![0; entry.len as usize];
                    read_literals(self.source, self.layout, *file, start - self.layout.starts[index], &mut bytes)?;
                    Job::Bytes(bytes, Kind::Content)
                }
                piece => Job::Piece(piece, None),
            };
            let chunk = self.chunk(&mut scratch, job, true)?;
            if chunk.id != *entry {
                return Err(Error::invalid(
                    "the state changed while it was being saved; nothing was saved. Save again",
                ));
            }
            filler.add(chunk, false)?;
        }
        for (id, kind, bytes) in &tree.metadata {
            if chosen.contains(&id.id) && !filler.has(&id.id) {
                filler.add(self.chunk(&mut scratch, Job::Bytes(bytes.clone(), *kind), true)?, false)?;
            }
        }
        Ok(())
    }
}

/// Cuts the literal bytes of a file by content, a chunk at a time.
struct Cutter<'a> {
    layout: &'a Layout,
    source: &'a dyn StateSource,
    file: usize,
    len: u64,
    cdc: (usize, usize, usize),
    at: u64,
    held: Vec<u8>,
}

impl Cutter<'_> {
    fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let (_, _, max) = self.cdc;
        if self.held.len() < max && self.at < self.len {
            let old = self.held.len();
            // Twice the largest chunk at a time, so that bytes are not moved for every small chunk.
            let more = (2 * max - old).min(usize::try_from(self.len - self.at).unwrap_or(usize::MAX));
            self.held.resize(old + more, 0);
            read_literals(self.source, self.layout, self.file, self.at, &mut self.held[old..])?;
            self.at += more as u64;
        }
        if self.held.is_empty() {
            return Ok(None);
        }
        let (min, avg, max) = self.cdc;
        // Only the first cut of what is held is used: it needs `max` bytes of look-ahead, which are there.
        let window = &self.held[..self.held.len().min(max)];
        let n = if window.len() <= min {
            window.len()
        } else {
            fastcdc::v2020::FastCDC::new(window, min, avg, max).next().map_or(window.len(), |c| c.length)
        };
        let rest = self.held.split_off(n);
        Ok(Some(std::mem::replace(&mut self.held, rest)))
    }
}

/// The content of a state and the metadata chunks that describe it.
struct Tree {
    content: Vec<ChunkRef>,
    root: Vec<ChunkRef>,
    depth: u32,
    structure: Vec<ChunkRef>,
    metadata: Vec<(ChunkRef, Kind, Vec<u8>)>,
}

impl Tree {
    fn build(content: Vec<ChunkRef>, structure: Vec<u8>) -> Self {
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

    fn jobs<'a>(&self) -> impl FnMut() -> Result<Option<Job<'a>>> + use<'a> {
        let mut jobs: Vec<_> =
            self.metadata.iter().rev().map(|(_, kind, bytes)| Job::Bytes(bytes.clone(), *kind)).collect();
        move || Ok(jobs.pop())
    }

    fn closure(&self) -> impl Iterator<Item = ChunkId> {
        self.content.iter().map(|c| c.id).chain(self.metadata.iter().map(|m| m.0.id))
    }

    fn state(self, length: u64) -> State {
        State { length, structure: self.structure, depth: self.depth, root: self.root }
    }
}

/// Fills packs one after the other; flushing a full one to disk goes on behind it.
struct Filler {
    temp: PathBuf,
    packs_dir: PathBuf,
    target: u64,
    avoid: HashSet<PackName>,
    /// Chunks that are stored whole, and deltas: a reader without them may refuse their packs.
    open: [Option<OpenPack>; 2],
    opened: usize,
    flushing: Option<std::thread::JoinHandle<Result<()>>>,
    packs: Vec<Pack>,
    stored: HashSet<ChunkId>,
    /// Bases of deltas that this save has stored.
    bases: HashSet<ChunkId>,
    /// What a restore may read more, as far as the chunks are known.
    credit: i64,
    deltas: bool,
    bytes_new: u64,
    bytes_encoded: u64,
}

impl Filler {
    fn new(temp: &Path, packs: &Path, target: u64, avoid: &HashSet<PackName>) -> Self {
        Self {
            avoid: avoid.clone(),
            temp: temp.to_owned(),
            packs_dir: packs.to_owned(),
            target,
            open: [None, None],
            opened: 0,
            flushing: None,
            packs: vec![],
            stored: HashSet::new(),
            bases: HashSet::new(),
            credit: 0,
            deltas: false,
            bytes_new: 0,
            bytes_encoded: 0,
        }
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.stored.contains(id)
    }

    /// Stores a chunk, unless it is stored already.
    fn add(&mut self, chunk: Chunk, new: bool) -> Result<()> {
        if let Form::Known(cost) = chunk.form {
            self.credit += cost.credit();
            self.deltas |= cost.reads > cost.whole;
            return Ok(());
        }
        if !self.stored.insert(chunk.id.id) {
            return Ok(());
        }
        let (codec, base, bytes) = self.choose(chunk.form);
        if new {
            self.bytes_new += u64::from(chunk.id.len);
            self.bytes_encoded += bytes.len() as u64;
        }
        self.deltas |= base.is_some();
        self.bases.extend(base);
        let kind = usize::from(base.is_some());
        let open = match &mut self.open[kind] {
            Some(open) => open,
            closed => {
                self.opened += 1;
                closed.insert(OpenPack::create(&self.temp, self.opened)?)
            }
        };
        open.add(&chunk.id, chunk.kind, codec, base, &bytes)?;
        if open.length >= self.target || open.entries.len() as u32 >= pack::MAX_ENTRIES {
            self.close(kind)?;
        }
        Ok(())
    }

    /// Decides, in state order, whether a chunk becomes a delta, so that a restore never reads more than half as much again.
    fn choose(&mut self, form: Form) -> (Codec, Option<ChunkId>, Vec<u8>) {
        match form {
            Form::Delta(delta, whole) => {
                let credit = self.credit + delta.cost.credit();
                let enough = if delta.base.age < OLD { 0 } else { FAR * delta.cost.whole as i64 };
                match whole {
                    Some((codec, bytes)) if credit < enough => self.take_whole(codec, bytes),
                    _ => {
                        self.credit = credit;
                        (Codec::Delta, Some(delta.base.id), delta.bytes)
                    }
                }
            }
            Form::Whole(codec, bytes) => self.take_whole(codec, bytes),
            Form::Known(_) => unreachable!("a chunk that is stored already is not stored again"),
        }
    }

    fn take_whole(&mut self, codec: Codec, bytes: Vec<u8>) -> (Codec, Option<ChunkId>, Vec<u8>) {
        let len = bytes.len() as u64;
        self.credit += Cost { reads: len, whole: len }.credit();
        (codec, None, bytes)
    }

    fn close(&mut self, kind: usize) -> Result<()> {
        let Some(open) = self.open[kind].take() else { return Ok(()) };
        let temp = open.path.clone();
        let (file, pack) = open.finish(&self.avoid)?;
        self.join()?;
        let path = self.packs_dir.join(format!("{}.pack", pack.name.hex()));
        self.packs.push(pack);
        let flush = move || {
            storage::sync(&file, &temp)?;
            drop(file);
            storage::rename(&temp, &path)
        };
        self.flushing = Some(
            std::thread::Builder::new().name("lamina-flush".into()).spawn(flush).map_err(|e| Error::no_thread(&e))?,
        );
        Ok(())
    }

    fn join(&mut self) -> Result<()> {
        match self.flushing.take().map(std::thread::JoinHandle::join) {
            Some(Err(_)) => Err(Error::invalid("the thread that flushes packs panicked; please report this")),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Vec<Pack>> {
        (0..self.open.len()).try_for_each(|kind| self.close(kind))?;
        self.join()?;
        // Also without packs of its own: a chunk may be known from a pack whose writer was killed before it flushed the folder.
        storage::sync_dir(&self.packs_dir)?;
        Ok(std::mem::take(&mut self.packs))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = self.join();
    }
}
