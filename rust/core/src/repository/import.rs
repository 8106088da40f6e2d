//! Import: brings the snapshot of an artifact directory into a repository, under the same id (docs/format.md §8). The
//! directory is not trusted: every chunk that is taken from it is verified.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunks::check_pack::{check_pack, read_delta};
use crate::chunks::placement::{Location, Placement};
use crate::chunks::read::{Chunks, Scratch};
use crate::codec::Decoder;
use crate::error::{Error, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::Snapshot;
use crate::repository::copies::{Source, copy};
use crate::repository::parts::Parts;
use crate::repository::paths::Paths;
use crate::repository::rescue::Rescue;
use crate::repository::save::{Saving, begin_save};
use crate::restore::reader::Reader;
use crate::storage;
use crate::task::Task;

/// The result of an import.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The snapshot in the repository.
    pub snapshot: Arc<Snapshot>,
    /// `false` if the repository had the snapshot already; then nothing was changed.
    pub new: bool,
    /// Bytes by which the packs of the repository have grown.
    pub bytes: u64,
}

/// An import under way.
struct Import<'a> {
    parts: &'a Parts,
    saving: &'a Saving,
    source: &'a Source,
    task: &'a Task<'a>,
}

/// Imports the snapshot of an artifact directory; see [`crate::Repository::import`].
pub(super) fn import(parts: &Parts, folder: &Path, series: Option<&str>, task: &Task<'_>) -> Result<Imported> {
    let (bytes, snapshot) = file_of(folder, series)?;
    if let Some(there) = parts.snapshots.readable()?.into_iter().find(|s| s.id == snapshot.id) {
        parts.flush_names()?;
        return Ok(Imported { snapshot: there, new: false, bytes: 0 });
    }
    let source = Source::open(folder)?;
    let chunks = Chunks::new(source.chunks.shared_placement(), source.paths.packs());
    let reader = Reader::open(chunks, &snapshot)?;
    let saving = begin_save(parts)?;
    let import = Import { parts, saving: &saving, source: &source, task };
    let (packs, copied) = import.bring_packs(&reader.packs())?;
    let rescued = import.bring_chunks(&reader.closure())?;
    import.check(&reader.closure(), &packs)?;
    let snapshot = parts.snapshots.commit(&bytes, &saving.session)?;
    Ok(Imported { snapshot, new: true, bytes: copied + rescued })
}

/// The bytes of the snapshot file to commit, and the snapshot in it.
fn file_of(folder: &Path, series: Option<&str>) -> Result<(Vec<u8>, Snapshot)> {
    let path = Paths::new(folder).artifact();
    let what = path.display().to_string();
    let bytes = storage::read_small(&path, MAX_JSON)?;
    let mut snapshot = Snapshot::parse(&bytes, 0, &what)?;
    let bytes = match series {
        Some(name) if name != snapshot.body.series => {
            name.clone_into(&mut snapshot.body.series);
            snapshot.body.seal()?
        }
        _ => bytes,
    };
    let snapshot = Snapshot::parse(&bytes, 0, &what)?;
    if snapshot.body.series.is_empty() {
        return Err(Error::invalid(format!("{what} names no series; pass the name of a series")));
    }
    Ok((bytes, snapshot))
}

impl Import<'_> {
    /// Copies the packs that the repository lacks, and verifies each chunk. A pack with a delta whose base is missing
    /// is left out: the delta cannot be verified, and a later save could use it. Returns the new packs, and their
    /// bytes.
    fn bring_packs(&self, serving: &HashSet<PackName>) -> Result<(HashSet<PackName>, u64)> {
        let known = self.parts.packs.refresh()?;
        let lacking = |name: &&PackName| known.pack(name).is_none() && !self.saving.condemned.contains(name);
        let names: Vec<PackName> = serving.iter().filter(lacking).copied().collect();
        names.iter().try_for_each(|name| self.parts.packs.refuse_damaged(name))?;
        let lengths = names.iter().filter_map(|name| self.source.chunks.placement().pack(name)).map(|pack| pack.length);
        self.task.begin("importing", lengths.sum());
        let mut names = names.into_iter();
        let work = |(decoder, scratch): &mut (Decoder, Scratch), name: PackName| {
            let temp = self.saving.session.temp(&name.hex());
            let vouched = self.copy_verified(&name, &temp, decoder, scratch)?;
            Ok((name, temp, vouched))
        };
        let paths = &self.parts.paths;
        let (mut new, mut bytes) = (HashSet::new(), 0);
        self.task.run(
            4,
            || Ok(names.next()),
            Default::default,
            work,
            |(name, temp, vouched): (_, PathBuf, _)| {
                let length = storage::rough_length(&temp);
                self.task.advance(length);
                if vouched {
                    storage::rename(&temp, &paths.pack(&name))?;
                    new.insert(name);
                    bytes += length;
                    return Ok(());
                }
                storage::remove_file(&temp)
            },
        )?;
        storage::sync_dir(&paths.packs())?;
        Ok((new, bytes))
    }

    /// Copies a pack and verifies the copy, which nobody else can change. `false` if a delta in it cannot be decoded.
    fn copy_verified(
        &self,
        name: &PackName,
        temp: &Path,
        decoder: &mut Decoder,
        scratch: &mut Scratch,
    ) -> Result<bool> {
        let from = self.source.chunks.path(name);
        let lies = || format!("pack {} cannot be imported", from.display());
        if copy(&from, temp)? != *name {
            return Err(Error::corrupt("its digest does not match its name").context(lies()));
        }
        let vouched = AtomicBool::new(true);
        let delta = |entry: &_, raw: &mut _| {
            let read = read_delta(&self.source.chunks, *name, entry, scratch, raw);
            if read.is_none() {
                vouched.store(false, Ordering::Relaxed);
            }
            read
        };
        let problems = check_pack(temp, *name, decoder, delta)?.problems;
        match problems.into_iter().next() {
            Some(problem) => Err(problem.context(lies())),
            None => Ok(vouched.into_inner()),
        }
    }

    /// Stores the chunks that no pack of the repository holds in new packs. Returns the bytes of these packs.
    fn bring_chunks(&self, wanted: &HashSet<ChunkId>) -> Result<u64> {
        let known = self.parts.packs.refresh()?;
        let condemned = &self.saving.condemned;
        let mut rescue = Rescue::new(self.parts, &self.saving.session, condemned.clone());
        for id in wanted.iter().filter(|id| known.stored(id, condemned).is_none()) {
            self.task.check()?;
            let place = self.source.chunks.placement().find(id)?;
            if rescue.copy(&self.source.chunks, place)?.is_none() {
                return Err(Error::corrupt(format!(
                    "chunk {} of {} is damaged; nothing was imported",
                    id.hex(),
                    self.source.paths.root().display()
                )));
            }
        }
        rescue.finish()
    }

    /// Verifies the chunks that the repository had before, so that no snapshot is committed on damaged data.
    fn check(&self, wanted: &HashSet<ChunkId>, verified: &HashSet<PackName>) -> Result<()> {
        let known = self.parts.packs.chunks()?;
        let mut wanted = wanted.iter();
        let work = |scratch: &mut Scratch, id: &ChunkId| {
            let place = readable(known.placement(), id, &self.saving.condemned)?;
            if verified.contains(&place.pack.name) {
                return Ok(());
            }
            let mut raw = vec![0; place.entry.raw as usize];
            known.read_at(place, &mut raw, scratch).map_err(|e| e.context("the repository is damaged, repair it first"))
        };
        self.task.run(64, || Ok(wanted.next()), Scratch::new, work, |()| Ok(()))
    }
}

fn readable<'a>(known: &'a Placement, id: &ChunkId, except: &HashSet<PackName>) -> Result<Location<'a>> {
    known.readable(id, except).next().ok_or_else(|| Error::corrupt(format!("no pack holds chunk {}", id.hex())))
}
