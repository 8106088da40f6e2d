//! A pack that is being written.

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

pub(crate) struct OpenPack {
    pub(crate) path: PathBuf,
    file: std::io::BufWriter<storage::Appended>,
    hasher: blake3::Hasher,
    pub(crate) entries: Vec<Entry>,
    pub(crate) length: u64,
}

impl OpenPack {
    pub(crate) fn create(temp: &Path, number: usize) -> Result<Self> {
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

    pub(crate) fn add(
        &mut self,
        id: &ChunkRef,
        kind: Kind,
        codec: Codec,
        base: Option<ChunkId>,
        bytes: &[u8],
    ) -> Result<()> {
        self.entries.push(Entry {
            id: id.id,
            offset: self.length,
            encoded: bytes.len() as u32,
            raw: id.len,
            codec,
            kind,
            base,
        });
        self.write(bytes)
    }

    /// Ends the pack. Its name is drawn again while it is one of `avoid`: prune may be deleting the pack of that name.
    pub(crate) fn finish(mut self, avoid: &HashSet<PackName>) -> Result<(File, Pack)> {
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
