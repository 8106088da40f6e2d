//! The writer: from a state to packs and a snapshot body.
//!
//! Chunks are hashed and, if they are new, encoded in parallel while they are in cache; one thread takes them in state
//! order and fills packs, so packs are the same for the same input whatever the number of threads.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::chunker::{self, Layout, METADATA_CDC, Piece};
use crate::codec::{Codec, CodecChoice, Encoder};
use crate::digest::{ChunkId, Digest, PackName};
use crate::error::{Error, Result};
use crate::format::MAX_CHUNKS;
use crate::pack::{self, Entry, Kind};
use crate::pipeline;
use crate::placement::{Pack, Placement};
use crate::progress;
use crate::snapshot::{ChunkRef, State};
use crate::source::{StateSource, read_literals, read_piece};
use crate::storage;
use crate::tensor::Element;

/// Entries that a snapshot file lists itself before a content tree is made.
pub const ROOT: usize = 32;
/// A pack of which less than this part is alive in the newest snapshot is written again, as 1/n.
const HALF: u64 = 2;

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
    Piece(&'a Piece),
    Bytes(Vec<u8>, Kind),
}

/// What a worker gives back; nothing encoded for a chunk that is stored already.
struct Chunk {
    id: ChunkRef,
    kind: Kind,
    encoded: Option<(Codec, Vec<u8>)>,
}

/// A worker's own memory.
struct Scratch {
    encoder: Encoder,
    read: Vec<u8>,
    joined: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { encoder: Encoder::new(), read: vec![], joined: vec![] }
    }
}

impl<'a> Writer<'a> {
    /// A writer for one save.
    pub fn new(
        layout: &'a Layout,
        source: &'a dyn StateSource,
        known: &'a Placement,
        condemned: &'a HashSet<PackName>,
        options: Options,
        interrupt: &'a (dyn Fn() -> Result<()> + Sync),
    ) -> Self {
        Self { layout, source, known, condemned, options, interrupt }
    }

    /// Writes packs to `temp`, moves them to `packs`.
    pub fn write(&self, temp: &Path, packs: &Path) -> Result<Written> {
        let target = (self.options.expected_new / 16).clamp(8 << 20, 64 << 20);
        let mut filler = Filler::new(temp, packs, target, self.condemned);
        let mut content = vec![];
        progress::begin("saving", self.layout.length);
        self.store(self.content_jobs(), &mut filler, |c| content.push(c))?;
        if content.len() as u64 > MAX_CHUNKS {
            return Err(Error::invalid(format!(
                "the state has {} chunks; at most {MAX_CHUNKS} are supported",
                content.len()
            )));
        }
        self.source.finish()?;
        let tree = Tree::build(content, self.layout.structure.to_bytes()?);
        self.store(tree.jobs(), &mut filler, |_| ())?;
        let bytes_new = filler.bytes_new;
        self.repack(&tree, &mut filler)?;
        let packs = filler.finish()?;
        let bytes_stored = packs.iter().map(|p| p.length).sum();
        Ok(Written { state: tree.state(self.layout.length), packs, bytes_new, bytes_stored })
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
        let Scratch { encoder, read, joined } = scratch;
        let (raw, element, kind) = match &job {
            Job::Piece(piece) => {
                let element = match piece {
                    Piece::Run { element, .. } | Piece::Group { element, .. } => *element,
                    Piece::Literals { .. } => Element::OPAQUE,
                };
                (read_piece(self.source, piece, read, joined)?, element, Kind::Content)
            }
            Job::Bytes(bytes, kind) => (bytes.as_slice(), Element::OPAQUE, *kind),
        };
        let id = ChunkRef { id: Digest::of(raw), len: raw.len() as u32 };
        let encoded = if !again && self.known.holds(&id.id, self.condemned) {
            None
        } else {
            let (codec, bytes) = encoder.encode(raw, element, self.options.codec)?;
            Some((codec, bytes.to_vec()))
        };
        Ok(Chunk { id, kind, encoded })
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
                _ => return Ok(Some(Job::Piece(piece))),
            }
        }
    }

    /// Writes live chunks of packs that are mostly dead again, at most as many bytes as this save has added, so that the packs
    /// of the newest snapshot stay close to its live bytes.
    fn repack(&self, tree: &Tree, filler: &mut Filler) -> Result<()> {
        let mut budget = filler.bytes_encoded;
        if budget == 0 {
            return Ok(());
        }
        let closure: HashSet<ChunkId> =
            tree.closure().filter(|id| self.known.holds(id, self.condemned) && !filler.has(id)).collect();
        let serving = self.known.serve(&closure)?;
        let mut sparse: Vec<(&Pack, u64)> = vec![];
        for (name, &live) in &serving.live {
            if let Some(pack) = self.known.pack(name).filter(|p| live * HALF < p.encoded()) {
                sparse.push((pack, live));
            }
        }
        // The emptiest first; fractions are compared crosswise.
        sparse.sort_by(|a, b| {
            (u128::from(a.1) * u128::from(b.0.length))
                .cmp(&(u128::from(b.1) * u128::from(a.0.length)))
                .then(a.0.name.cmp(&b.0.name))
        });
        let mut chosen = HashSet::new();
        let entries = sparse.iter().flat_map(|(pack, _)| pack.entries.iter().map(|e| (pack.name, e)));
        for (_, entry) in entries.filter(|(name, e)| serving.pack_of.get(&e.id) == Some(name)) {
            let encoded = u64::from(entry.encoded);
            if encoded <= budget {
                budget -= encoded;
                chosen.insert(entry.id);
            }
        }
        if chosen.is_empty() {
            return Ok(());
        }
        // What has outlived a pack will probably outlive what is new now: in a pack of its own it is not rewritten again.
        filler.close()?;
        self.store_again(tree, &chosen, filler)
    }

    /// Stores chunks once more, read from the source anew.
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
                piece => Job::Piece(piece),
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
            let nodes = chunker::nodes(&tree.root);
            tree.root = nodes.into_iter().map(|bytes| tree.add(Kind::Node, bytes)).collect();
            tree.depth += 1;
        }
        tree.structure =
            chunker::cut(&structure, METADATA_CDC).into_iter().map(|c| tree.add(Kind::Structure, c.to_vec())).collect();
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
    open: Option<OpenPack>,
    flushing: Option<std::thread::JoinHandle<Result<()>>>,
    packs: Vec<Pack>,
    stored: HashMap<ChunkId, ()>,
    bytes_new: u64,
    bytes_encoded: u64,
}

struct OpenPack {
    path: PathBuf,
    file: std::io::BufWriter<storage::Appended>,
    hasher: blake3::Hasher,
    entries: Vec<Entry>,
    length: u64,
}

impl Filler {
    fn new(temp: &Path, packs: &Path, target: u64, avoid: &HashSet<PackName>) -> Self {
        Self {
            avoid: avoid.clone(),
            temp: temp.to_owned(),
            packs_dir: packs.to_owned(),
            target,
            open: None,
            flushing: None,
            packs: vec![],
            stored: HashMap::new(),
            bytes_new: 0,
            bytes_encoded: 0,
        }
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.stored.contains_key(id)
    }

    /// Stores a chunk that came with its encoded bytes, unless this save has stored it already.
    fn add(&mut self, chunk: Chunk, new: bool) -> Result<()> {
        let Some((codec, bytes)) = chunk.encoded else { return Ok(()) };
        if self.stored.insert(chunk.id.id, ()).is_some() {
            return Ok(());
        }
        if new {
            self.bytes_new += u64::from(chunk.id.len);
            self.bytes_encoded += bytes.len() as u64;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(OpenPack::create(&self.temp, self.packs.len())?),
        };
        open.add(&chunk.id, chunk.kind, codec, &bytes)?;
        if open.length >= self.target || open.entries.len() as u32 >= pack::MAX_ENTRIES {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let temp = open.path.clone();
        let (file, pack) = open.finish(&self.avoid)?;
        self.join()?;
        let path = self.packs_dir.join(format!("{}.pack", pack.name.hex()));
        self.packs.push(pack);
        self.flushing = Some(std::thread::spawn(move || {
            storage::sync(&file, &temp)?;
            drop(file);
            storage::rename(&temp, &path)
        }));
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
        self.close()?;
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

impl OpenPack {
    fn create(temp: &Path, number: usize) -> Result<Self> {
        let path = temp.join(format!("{number}.tmp"));
        let file = std::io::BufWriter::with_capacity(1 << 20, storage::Appended::create(&path)?);
        let mut pack = Self { path, file, hasher: blake3::Hasher::new(), entries: vec![], length: 0 };
        pack.write(pack::MAGIC)?;
        Ok(pack)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, &e))
    }

    fn add(&mut self, id: &ChunkRef, kind: Kind, codec: Codec, bytes: &[u8]) -> Result<()> {
        self.entries.push(Entry {
            id: id.id,
            offset: self.length,
            encoded: bytes.len() as u32,
            raw: id.len,
            codec,
            kind,
            base: None,
        });
        self.write(bytes)
    }

    /// Ends the pack. Its name is drawn again while it is one of `avoid`: prune may be deleting the pack of that name.
    fn finish(mut self, avoid: &HashSet<PackName>) -> Result<(File, Pack)> {
        let mut salt = 0;
        let (footer, name) = loop {
            let footer = pack::footer(&self.entries, salt);
            let name = Digest::finish(self.hasher.clone().update(&footer));
            if !avoid.contains(&name) {
                break (footer, name);
            }
            salt += 1;
        };
        self.write(&footer)?;
        let file = self.file.into_inner().map_err(|e| Error::io("write", &self.path, e.error()))?;
        Ok((file.into_file(), Pack { name, length: self.length, entries: self.entries, salt }))
    }
}
