//! The reader: verified bytes of a snapshot, in parallel, straight to where they are wanted.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::chunks::placement::{Location, Placement};
use crate::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::limits::most_chunks;
use crate::format::pack::{Codec, Entry};
use crate::format::snapshot::{Snapshot, State};
use crate::format::structure::{Structure, describe};
use crate::format::tree::ChunkRef;
use crate::storage;
use crate::storage::temporary::Temporary;
use crate::task::{pipeline, progress};

/// Open pack files of a folder.
#[derive(Debug)]
pub struct PackFiles {
    folder: PathBuf,
    open: Mutex<HashMap<PackName, Arc<File>>>,
}

/// Pack files that are kept open at once; more than a snapshot of a repository normally needs, fewer than any system allows.
const OPEN_FILES: usize = 128;

impl PackFiles {
    /// The packs of a folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default() }
    }

    /// Path of a pack.
    pub fn path(&self, name: &PackName) -> PathBuf {
        self.folder.join(format!("{}.pack", name.hex()))
    }

    fn file(&self, name: &PackName) -> Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(name) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(name);
        let file = storage::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::corrupt(format!("pack {} is missing", path.display())),
            _ => e,
        })?;
        if open.len() >= OPEN_FILES {
            open.clear();
        }
        let file = Arc::new(file);
        open.insert(*name, Arc::clone(&file));
        Ok(file)
    }

    /// Fills `buffer` with the encoded bytes of a chunk from `within` on.
    pub fn read(&self, place: Location<'_>, within: usize, buffer: &mut [u8]) -> Result<()> {
        let file = self.file(&place.pack.name)?;
        storage::read_at(&file, &self.path(&place.pack.name), buffer, place.entry.offset + within as u64)
    }
}

/// A thread's decoder and buffers.
pub struct Scratch {
    decoder: Decoder,
    encoded: Vec<u8>,
    raw: Vec<u8>,
    base: Vec<u8>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self { decoder: Decoder::new(), encoded: vec![], raw: vec![], base: vec![] }
    }

    /// Decodes a zstd frame that stands in an encoded chunk, `len` bytes from `within` on.
    pub fn read_frame(
        &mut self,
        packs: &PackFiles,
        place: Location<'_>,
        within: usize,
        len: usize,
        dst: &mut [u8],
    ) -> Result<()> {
        if within.saturating_add(len) > place.entry.encoded as usize {
            return Err(Error::corrupt(format!("chunk {} is shorter than its planes", place.entry.id.hex())));
        }
        self.encoded.resize(len, 0);
        packs.read(place, within, &mut self.encoded)?;
        self.decoder.decode_into(Codec::Zstd, &self.encoded, dst)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads and verifies a chunk into `dst`, which has its raw length; the base of a delta is looked for in `placement`.
pub fn read_chunk(
    placement: &Placement,
    packs: &PackFiles,
    place: Location<'_>,
    scratch: &mut Scratch,
    dst: &mut [u8],
) -> Result<()> {
    let Entry { id, codec, raw, encoded, base, .. } = place.entry;
    if *raw as usize != dst.len() {
        return Err(Error::corrupt(format!("chunk {} has {raw} bytes, {} were expected", id.hex(), dst.len())));
    }
    let what = || format!("chunk {} in pack {}", id.hex(), place.pack.name.hex());
    if let Some(base) = base {
        read_base(placement, packs, base, scratch, dst.len()).map_err(|e| e.context(what()))?;
    }
    if *codec == Codec::Raw && encoded == raw {
        packs.read(place, 0, dst)?;
    } else {
        let Scratch { decoder, encoded, base: held, .. } = scratch;
        encoded.resize(place.entry.encoded as usize, 0);
        packs.read(place, 0, encoded)?;
        let done = match base {
            Some(_) => decoder.decode_delta_into(encoded, held, dst),
            None => decoder.decode_into(*codec, encoded, dst),
        };
        done.map_err(|e| e.context(what()))?;
    }
    if Digest::of(dst) == *id {
        Ok(())
    } else {
        Err(Error::corrupt(format!("{} is damaged: its digest is not its name", what())))
    }
}

/// Reads the base of a delta, verified, into the scratch. A base is never a delta itself, so this ends.
fn read_base(
    placement: &Placement,
    packs: &PackFiles,
    id: &ChunkId,
    scratch: &mut Scratch,
    length: usize,
) -> Result<()> {
    let mut base = std::mem::take(&mut scratch.base);
    base.resize(length, 0);
    let mut result = Err(Error::corrupt(format!("no pack holds its base, chunk {}", id.hex())));
    for place in placement.whole(id, &HashSet::new()) {
        result = read_chunk(placement, packs, place, scratch, &mut base);
        if result.is_ok() {
            break;
        }
    }
    scratch.base = base;
    result
}

/// A destination: bytes of the state from `offset` go here.
#[derive(Debug)]
pub struct Want<'a> {
    /// First byte in the state.
    pub offset: u64,
    /// Where they go.
    pub to: &'a mut [u8],
}

/// A chunk of metadata, verified.
fn read_small(placement: &Placement, packs: &PackFiles, scratch: &mut Scratch, chunk: &ChunkRef) -> Result<Vec<u8>> {
    let mut bytes = vec![0; chunk.len as usize];
    read_any(placement, packs, &chunk.id, None, scratch, &mut bytes)?;
    Ok(bytes)
}

/// Reads and verifies a chunk, from the pack `chosen` if it is whole there, else from any other that holds it.
fn read_any(
    placement: &Placement,
    packs: &PackFiles,
    id: &ChunkId,
    chosen: Option<&PackName>,
    scratch: &mut Scratch,
    dst: &mut [u8],
) -> Result<()> {
    let mut places: Vec<_> = placement.places(id).collect();
    // A pack may hold it as a delta although another one has it whole: then that is the second choice.
    places.sort_by_key(|p| (Some(&p.pack.name) != chosen, p.entry.base));
    let mut failure = None;
    for place in places {
        match read_chunk(placement, packs, place, scratch, dst) {
            Ok(()) => return Ok(()),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| placement.missing(id)))
}

/// Bytes of a structure that are read however they are stored, and how many times as long as it is stored a longer one may
/// be. Names do not repeat themselves, so one that is written down takes a twentieth at least; a lie of 10 KB could fill
/// gigabytes.
const FREE_STRUCTURE: u64 = 16 << 20;
const DENSEST_STRUCTURE: u64 = 256;

/// Refuses a structure whose chunks, those of them that are here, take no room.
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

/// What the bytes of a state mean.
pub fn structure(placement: &Placement, packs: &PackFiles, state: &State) -> Result<Structure> {
    check_density(placement, &state.structure)?;
    let mut scratch = Scratch::new();
    let mut bytes = vec![];
    for chunk in &state.structure {
        bytes.extend(read_small(placement, packs, &mut scratch, chunk)?);
    }
    Structure::parse(&bytes, state.length)
}

/// The chunks that a state needs.
#[derive(Debug)]
pub struct Closure {
    /// Its content, in order, with repetitions.
    pub content: Vec<ChunkRef>,
    /// Its structure and the nodes of its content tree.
    pub metadata: HashSet<ChunkId>,
}

/// Nodes that have been read already.
pub type Nodes = HashMap<ChunkId, Arc<Vec<ChunkRef>>>;

/// Reads the content tree of a state; `nodes` saves reading what snapshots share.
pub fn closure(placement: &Placement, packs: &PackFiles, state: &State, nodes: &mut Nodes) -> Result<Closure> {
    let mut scratch = Scratch::new();
    let mut metadata: HashSet<ChunkId> = state.structure.iter().map(|c| c.id).collect();
    let mut content = state.root.clone();
    for _ in 0..state.depth {
        let mut below = vec![];
        for node in &content {
            metadata.insert(node.id);
            let entries = match nodes.get(&node.id) {
                Some(entries) => Arc::clone(entries),
                None => {
                    let entries = ChunkRef::parse_node(&read_small(placement, packs, &mut scratch, node)?)?;
                    Arc::clone(nodes.entry(node.id).or_insert(Arc::new(entries)))
                }
            };
            below.extend_from_slice(&entries);
            // A chunk has at least one byte, so a list longer than the state is a lie; stop before it fills memory.
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
    Ok(Closure { content, metadata })
}

/// The error of reading a snapshot: where its file is gone, that says so instead of what is missing.
pub(crate) fn told(error: Error, path: &Path, number: u64) -> Error {
    match error.kind() == ErrorKind::Corrupt && !storage::exists(path).unwrap_or(true) {
        true => Error::not_found(format!("snapshot {number} is gone: a prune has deleted it, or somebody its file")),
        false => error,
    }
}

/// A snapshot whose content list and structure have been read.
#[derive(Debug)]
pub struct Reader {
    placement: Arc<Placement>,
    packs: PackFiles,
    content: Vec<ChunkRef>,
    starts: Vec<u64>,
    pack_of: HashMap<ChunkId, PackName>,
    length: u64,
    /// What says that chunks of the content are in no pack.
    gone: Option<Error>,
    /// File of the snapshot, and its number: a prune may delete it at any time, and its packs.
    file: Option<(PathBuf, u64)>,
    /// What the bytes mean.
    pub structure: Structure,
}

impl Reader {
    /// Reads content list and structure of a snapshot, every chunk of which stands in a pack.
    pub fn open(placement: Arc<Placement>, packs: PackFiles, snapshot: &Snapshot) -> Result<Self> {
        let reader = Self::open_partly(placement, packs, snapshot)?;
        reader.gone.clone().map_or(Ok(reader), Err)
    }

    /// The same, also where no pack holds some chunks of the content: what needs none of them can be read.
    pub fn open_partly(placement: Arc<Placement>, packs: PackFiles, snapshot: &Snapshot) -> Result<Self> {
        let state = &snapshot.body.state;
        let structure = structure(&placement, &packs, state)?;
        let Closure { content, metadata } = closure(&placement, &packs, state, &mut HashMap::new())?;
        let mut starts = Vec::with_capacity(content.len());
        let mut at = 0u64;
        for c in &content {
            starts.push(at);
            at += u64::from(c.len);
        }
        let mut ids: HashSet<_> = content.iter().map(|c| c.id).chain(metadata).collect();
        let (length, pack_of) = (state.length, HashMap::new());
        let mut reader = Self { placement, packs, content, starts, pack_of, length, gone: None, file: None, structure };
        let serving = reader.placement.serve(&ids).or_else(|e| {
            let lost = reader.nowhere();
            for &index in &lost {
                ids.remove(&reader.content[index].id);
            }
            reader.gone = Some(reader.name(e, lost));
            reader.placement.serve(&ids)
        })?;
        reader.pack_of = serving.pack_of;
        Ok(reader)
    }

    /// The same for a snapshot of a repository, whose file this is; what is said of lost chunks is `explain`ed.
    pub(crate) fn of_file(mut self, path: PathBuf, number: u64, explain: impl FnOnce(Error) -> Error) -> Self {
        self.gone = self.gone.map(explain);
        self.file = Some((path, number));
        self
    }

    /// What is missing of a snapshot that is gone is no damage.
    fn told(&self, error: Error) -> Error {
        match &self.file {
            Some((path, number)) => told(error, path, *number),
            None => error,
        }
    }

    /// Indices of the chunks of the content that no pack holds.
    fn nowhere(&self) -> Vec<usize> {
        let is_gone = |&index: &usize| self.placement.stored(&self.content[index].id, &HashSet::new()).is_none();
        (0..self.content.len()).filter(is_gone).collect()
    }

    /// The error, with what these chunks hold in front of it.
    fn name(&self, error: Error, indices: Vec<usize>) -> Error {
        let end = |index: usize| self.starts[index] + u64::from(self.content[index].len);
        let parts: Vec<_> = indices.into_iter().map(|index| (self.starts[index], end(index))).collect();
        match error.kind() == ErrorKind::Corrupt && !parts.is_empty() {
            true => error.context(describe(&self.structure, &parts)),
            false => error,
        }
    }

    /// Chunks of the content, with repetitions.
    pub fn content(&self) -> &[ChunkRef] {
        &self.content
    }

    /// The chunks that hold bytes `offset..offset + length` of the state.
    pub fn chunks(&self, offset: u64, length: u64) -> &[ChunkRef] {
        &self.content[self.overlapping(offset, offset.saturating_add(length).min(self.length))]
    }

    /// Bytes that a chunk takes in the pack that serves it.
    pub fn encoded(&self, id: &ChunkId) -> Option<u32> {
        let chosen = self.pack_of.get(id)?;
        self.placement.places(id).find(|p| p.pack.name == *chosen).map(|p| p.entry.encoded)
    }

    /// All chunks that the snapshot needs, those of its structure and content tree and the bases of deltas included.
    pub fn closure(&self) -> HashSet<ChunkId> {
        self.pack_of.keys().copied().collect()
    }

    /// Names of the packs that serve it.
    pub fn packs(&self) -> HashSet<PackName> {
        self.pack_of.values().copied().collect()
    }

    /// Reads and verifies a chunk of the content; where its pack is damaged, from any other that holds it.
    fn chunk(&self, index: usize, scratch: &mut Scratch, dst: &mut [u8]) -> Result<()> {
        let id = &self.content[index].id;
        read_any(&self.placement, &self.packs, id, self.pack_of.get(id), scratch, dst)
            .map_err(|e| self.name(e, vec![index]))
    }

    /// Refuses before anything is read where one of these chunks is in no pack.
    fn refuse_lost(&self, mut indices: impl Iterator<Item = usize>) -> Result<()> {
        match &self.gone {
            Some(gone) if indices.any(|i| !self.pack_of.contains_key(&self.content[i].id)) => {
                Err(self.told(gone.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The chunks that overlap `start..end`: index range.
    fn overlapping(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        if start >= end {
            return 0..0;
        }
        let first = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        first..self.starts.partition_point(|&s| s < end)
    }

    /// Fills all destinations, verified. On an error some hold bytes, but never wrong ones that were reported as right.
    pub fn read(
        &self,
        wants: Vec<Want<'_>>,
        threads: usize,
        interrupt: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        let mut tasks: HashMap<usize, Vec<(usize, &mut [u8])>> = HashMap::new();
        for want in wants {
            let end = want.offset.checked_add(want.to.len() as u64).filter(|&e| e <= self.length);
            let end = end.ok_or_else(|| Error::invalid("bytes outside the state were asked for"))?;
            let mut at = want.offset;
            let mut rest = want.to;
            for index in self.overlapping(at, end) {
                let within = (at - self.starts[index]) as usize;
                let n = (self.content[index].len as usize - within).min(rest.len());
                let (part, later) = rest.split_at_mut(n);
                tasks.entry(index).or_default().push((within, part));
                rest = later;
                at += n as u64;
            }
        }
        let mut tasks: Vec<_> = tasks.into_iter().collect();
        tasks.sort_by_key(|t| t.0);
        self.refuse_lost(tasks.iter().map(|t| t.0))?;
        let mut tasks = tasks.into_iter();
        let source = || {
            interrupt()?;
            Ok(tasks.next())
        };
        let work =
            |scratch: &mut Scratch, (index, parts): (usize, Vec<(usize, &mut [u8])>)| self.fill(scratch, index, parts);
        pipeline::run(threads, 64, source, Scratch::new, work, |()| Ok(())).map_err(|e| self.told(e))
    }

    fn fill(&self, scratch: &mut Scratch, index: usize, mut parts: Vec<(usize, &mut [u8])>) -> Result<()> {
        let chunk = self.content[index];
        if let [(0, part)] = &mut parts[..]
            && part.len() == chunk.len as usize
        {
            return self.chunk(index, scratch, part);
        }
        let mut raw = std::mem::take(&mut scratch.raw);
        raw.resize(chunk.len as usize, 0);
        let result = self.chunk(index, scratch, &mut raw);
        if result.is_ok() {
            for (within, part) in parts {
                part.copy_from_slice(&raw[within..within + part.len()]);
            }
        }
        scratch.raw = raw;
        result
    }

    /// Writes the files of the snapshot into `folder`, each under a temporary name until it is complete.
    pub fn export(
        &self,
        folder: &Path,
        threads: usize,
        interrupt: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<Vec<PathBuf>> {
        self.refuse_lost(0..self.content.len())?;
        storage::create_dir(folder)?;
        let mut outputs = Outputs::default();
        for file in &self.structure.files {
            outputs.create(folder, &file.path, file.size)?;
        }
        let mut runs: HashMap<usize, Vec<Copy>> = HashMap::new();
        for (number, file) in self.structure.files.iter().enumerate() {
            let mut position = 0;
            for &(offset, len) in &file.extents {
                for index in self.overlapping(offset, offset + len) {
                    let start = self.starts[index].max(offset);
                    let end = (self.starts[index] + u64::from(self.content[index].len)).min(offset + len);
                    let within = (start - self.starts[index]) as usize;
                    let copy =
                        Copy { file: number, position: position + start - offset, within, len: (end - start) as usize };
                    runs.entry(index).or_default().push(copy);
                }
                position += len;
            }
        }
        let mut runs: Vec<_> = runs.into_iter().collect();
        runs.sort_by_key(|r| r.0);
        progress::begin("exporting", runs.iter().map(|r| u64::from(self.content[r.0].len)).sum());
        let mut runs = runs.into_iter();
        let source = || {
            interrupt()?;
            Ok(runs.next())
        };
        let work = |scratch: &mut Scratch, (index, copies): (usize, Vec<Copy>)| {
            let mut raw = std::mem::take(&mut scratch.raw);
            raw.resize(self.content[index].len as usize, 0);
            let result = self.chunk(index, scratch, &mut raw);
            let result = result.and_then(|()| copies.iter().try_for_each(|c| outputs.write(c, &raw)));
            scratch.raw = raw;
            result.map(|()| u64::from(self.content[index].len))
        };
        pipeline::run(threads, 64, source, Scratch::new, work, |bytes| {
            progress::advance(bytes);
            Ok(())
        })
        .map_err(|e| self.told(e))?;
        outputs.commit()
    }
}

/// `len` bytes of a chunk from `within` go to `position` of a file.
struct Copy {
    file: usize,
    position: u64,
    within: usize,
    len: usize,
}

/// Files being written, and what they will be called; those not committed are removed.
#[derive(Default)]
struct Outputs {
    files: Vec<(Temporary, PathBuf)>,
}

impl Outputs {
    fn create(&mut self, folder: &Path, path: &str, size: u64) -> Result<()> {
        let target = path.split('/').fold(folder.to_owned(), |folder, part| folder.join(part));
        let parent = storage::parent(&target);
        storage::create_dir(&parent)?;
        if target.is_dir() {
            return Err(Error::invalid(format!(
                "{} is a folder; a file of this name is to be written",
                target.display()
            )));
        }
        let temporary = Temporary::file(&parent)?;
        // Files of one folder follow each other; it is swept once.
        if self.files.last().is_none_or(|(_, before)| before.parent() != target.parent()) {
            temporary.sweep();
        }
        storage::set_length(temporary.opened(), temporary.path(), size)?;
        self.files.push((temporary, target));
        Ok(())
    }

    fn write(&self, copy: &Copy, raw: &[u8]) -> Result<()> {
        let (temporary, _) = &self.files[copy.file];
        storage::write_early(
            temporary.opened(),
            temporary.path(),
            &raw[copy.within..copy.within + copy.len],
            copy.position,
        )
    }

    fn commit(self) -> Result<Vec<PathBuf>> {
        for (temporary, _) in &self.files {
            storage::sync(temporary.opened(), temporary.path())?;
        }
        let mut paths = vec![];
        let mut folders = HashSet::new();
        for (temporary, target) in self.files {
            temporary.rename_to(&target)?;
            folders.insert(storage::parent(&target));
            paths.push(target);
        }
        folders.iter().try_for_each(|f| storage::sync_dir(f))?;
        Ok(paths)
    }
}

impl Closure {
    /// Names of all chunks.
    pub fn ids(self) -> HashSet<ChunkId> {
        let mut ids = self.metadata;
        ids.extend(self.content.iter().map(|c| c.id));
        ids
    }
}
