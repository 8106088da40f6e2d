//! The pack writer: writes chunks into packs, one pack after the other.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::chunks::placement::Pack;
use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, Digest, PackName};
use crate::format::pack::{self, Codec, Entry, Kind};
use crate::format::tree::ChunkRef;
use crate::storage;

/// An encoded chunk, ready to be written into a pack.
pub(crate) struct Encoded<'a> {
    pub(crate) id: ChunkRef,
    pub(crate) kind: Kind,
    pub(crate) codec: Codec,
    pub(crate) base: Option<ChunkId>,
    pub(crate) bytes: &'a [u8],
}

/// Writes packs. A full pack is flushed to disk by a thread while the next one is filled.
pub(crate) struct PackWriter {
    temp: PathBuf,
    folder: PathBuf,
    target: u64,
    avoid: HashSet<PackName>,
    /// The pack of whole chunks and the pack of deltas. They are apart because an older reader may refuse packs with
    /// deltas.
    open: [Option<OpenPack>; 2],
    opened: usize,
    flushing: Option<std::thread::JoinHandle<Result<()>>>,
    packs: Vec<Pack>,
    stored: HashSet<ChunkId>,
}

impl PackWriter {
    /// Writes packs of about `target` bytes in `temp` and moves them to `folder`. No pack gets a name in `avoid`.
    pub(crate) fn new(temp: &Path, folder: &Path, target: u64, avoid: HashSet<PackName>) -> Self {
        Self {
            temp: temp.to_owned(),
            folder: folder.to_owned(),
            target,
            avoid,
            open: [None, None],
            opened: 0,
            flushing: None,
            packs: vec![],
            stored: HashSet::new(),
        }
    }

    /// Whether this writer has stored the chunk.
    pub(crate) fn has(&self, id: &ChunkId) -> bool {
        self.stored.contains(id)
    }

    /// Whether this writer has stored nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// Stores a chunk, unless this writer has stored it before.
    pub(crate) fn add(&mut self, chunk: &Encoded<'_>) -> Result<()> {
        if !self.stored.insert(chunk.id.id) {
            return Ok(());
        }
        let which = usize::from(chunk.base.is_some());
        let open = match &mut self.open[which] {
            Some(open) => open,
            closed => {
                self.opened += 1;
                closed.insert(OpenPack::create(&self.temp, self.opened)?)
            }
        };
        open.add(chunk)?;
        if open.length >= self.target || open.entries.len() as u32 >= pack::MAX_ENTRIES {
            self.close(which)?;
        }
        Ok(())
    }

    /// Closes the pack of whole chunks. The next whole chunk goes into a new one.
    pub(crate) fn begin_another(&mut self) -> Result<()> {
        self.close(0)
    }

    fn close(&mut self, which: usize) -> Result<()> {
        let Some(open) = self.open[which].take() else { return Ok(()) };
        let temp = open.path.clone();
        let (file, pack) = open.finish(&self.avoid)?;
        self.join()?;
        let path = self.folder.join(pack::file_name(&pack.name));
        self.packs.push(pack);
        let flush = move || {
            storage::sync(&file, &temp)?;
            drop(file);
            storage::rename(&temp, &path)
        };
        self.flushing =
            Some(std::thread::Builder::new().name("lamina-flush".into()).spawn(flush).map_err(Error::no_thread)?);
        Ok(())
    }

    fn join(&mut self) -> Result<()> {
        match self.flushing.take().map(std::thread::JoinHandle::join) {
            Some(Err(payload)) => Err(Error::panicked(&*payload)),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }

    /// Closes the last packs and makes all of them visible. Returns them in the order in which they were filled.
    pub(crate) fn finish(mut self) -> Result<Vec<Pack>> {
        (0..self.open.len()).try_for_each(|which| self.close(which))?;
        self.join()?;
        // Also if this writer made no pack: a known chunk may be in a pack whose writer was killed before it flushed
        // the folder.
        storage::sync_dir(&self.folder)?;
        Ok(std::mem::take(&mut self.packs))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

struct OpenPack {
    path: PathBuf,
    file: std::io::BufWriter<storage::Appended>,
    hasher: blake3::Hasher,
    entries: Vec<Entry>,
    length: u64,
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
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    fn add(&mut self, chunk: &Encoded<'_>) -> Result<()> {
        let &Encoded { id, kind, codec, base, bytes } = chunk;
        let encoded = bytes.len() as u32;
        self.entries.push(Entry { id: id.id, offset: self.length, encoded, raw: id.len, codec, kind, base });
        self.write(bytes)
    }

    /// Writes the footer. While the name is one of `avoid`, another salt changes it: a prune may be deleting the pack
    /// of that name.
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
        let file = self.file.into_inner().map_err(|e| Error::io("write", &self.path, e.into_error()))?;
        Ok((file.into_file(), Pack { name, length: self.length, entries: self.entries, salt }))
    }
}
