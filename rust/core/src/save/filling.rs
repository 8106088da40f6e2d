//! Filling of packs, one after the other, and the choice of the form in which a chunk goes there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::chunks::pack_writer::OpenPack;
use crate::chunks::placement::Pack;
use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::pack::{self, Codec};
use crate::save::chunk::{Chunk, Cost, Form};
use crate::storage;

/// From this age on a base is only kept where restores are far from reading too much: so dense updates, where they are not,
/// renew a third of the chunks with each version, and the differences stay small.
const OLD: u8 = 3;
/// How far: so many chunks like the one in question.
const FAR: i64 = 8;

/// Fills packs one after the other; flushing a full one to disk goes on behind it.
pub(super) struct Filler {
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
    pub(super) bases: HashSet<ChunkId>,
    /// What a restore may read more, as far as the chunks are known.
    pub(super) credit: i64,
    pub(super) deltas: bool,
    pub(super) bytes_new: u64,
    pub(super) bytes_encoded: u64,
}

impl Filler {
    pub(super) fn new(temp: &Path, packs: &Path, target: u64, avoid: &HashSet<PackName>) -> Self {
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

    pub(super) fn has(&self, id: &ChunkId) -> bool {
        self.stored.contains(id)
    }

    /// Stores a chunk, unless it is stored already.
    pub(super) fn add(&mut self, chunk: Chunk, new: bool) -> Result<()> {
        let (id, kind, form) = match chunk {
            Chunk::Known { cost, .. } => {
                self.credit += cost.credit();
                self.deltas |= cost.reads > cost.whole;
                return Ok(());
            }
            Chunk::New { id, kind, form } => (id, kind, form),
        };
        if !self.stored.insert(id.id) {
            return Ok(());
        }
        let (codec, base, bytes) = self.choose(form);
        if new {
            self.bytes_new += u64::from(id.len);
            self.bytes_encoded += bytes.len() as u64;
        }
        self.deltas |= base.is_some();
        self.bases.extend(base);
        let which = usize::from(base.is_some());
        let open = match &mut self.open[which] {
            Some(open) => open,
            closed => {
                self.opened += 1;
                closed.insert(OpenPack::create(&self.temp, self.opened)?)
            }
        };
        open.add(&id, kind, codec, base, &bytes)?;
        if open.length >= self.target || open.entries.len() as u32 >= pack::MAX_ENTRIES {
            self.close(which)?;
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
        }
    }

    fn take_whole(&mut self, codec: Codec, bytes: Vec<u8>) -> (Codec, Option<ChunkId>, Vec<u8>) {
        let len = bytes.len() as u64;
        self.credit += Cost { reads: len, whole: len }.credit();
        (codec, None, bytes)
    }

    pub(super) fn close(&mut self, kind: usize) -> Result<()> {
        let Some(open) = self.open[kind].take() else { return Ok(()) };
        let temp = open.path.clone();
        let (file, pack) = open.finish(&self.avoid)?;
        self.join()?;
        let path = self.packs_dir.join(pack::file_name(&pack.name));
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

    pub(super) fn finish(mut self) -> Result<Vec<Pack>> {
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
