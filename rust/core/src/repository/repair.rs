//! Repair: restores what another copy has, moves damaged files to the quarantine, and reports what is lost.
//!
//! Nothing is deleted, and no file is moved before everything that is readable in it is stored elsewhere. So an
//! interrupted repair can simply be started again (docs/format.md §3, "quarantine").

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::chunks::placement::Location;
use crate::chunks::read::Chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::Snapshot;
use crate::repository::copies::{Source, copy, copy_pack, digest_in, find_snapshot, occurs};
use crate::repository::lost::{Lost, Search};
use crate::repository::parts::Parts;
use crate::repository::paths::{Paths, snapshot_number};
use crate::repository::rescue::Rescue;
use crate::repository::session::{PruneLock, Session};
use crate::repository::small_file::is_damaged;
use crate::repository::verify::{damaged_among, verify};
use crate::storage;
use crate::task::Task;

/// What a repair did, and what it could not repair.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Repaired {
    /// The files that were moved to the quarantine, as the paths that they had in the repository.
    pub quarantined: Vec<String>,
    /// The files that were restored from a source, as their paths in the repository.
    pub restored: Vec<String>,
    /// The number of undamaged chunks of damaged packs that were stored in new packs.
    pub chunks_rescued: u64,
    /// The number of chunks that were copied from a source.
    pub chunks_fetched: u64,
    /// The snapshots that have lost something.
    pub lost: Vec<Lost>,
    /// The problems that a verify without `full` finds afterwards.
    pub problems: Vec<String>,
}

impl Repaired {
    /// The report as a JSON object.
    ///
    /// # Errors
    /// `InvalidInput` if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::invalid(format!("the report cannot be written: {e}")))
    }
}

/// Restores a damaged or missing config; see [`crate::Repository::restore_config`].
pub(super) fn restore_config(root: &Path, sources: &[PathBuf], created_at: &str, task: &Task<'_>) -> Result<Repaired> {
    let (paths, mut done) = (Paths::new(root), Repaired::default());
    match Parts::open(root) {
        Err(e) if e.kind() == ErrorKind::Corrupt => {}
        Err(e) if e.kind() == ErrorKind::NotFound && storage::exists(&paths.snapshots())? => {}
        other => return other.map(|_| done),
    }
    let parts = Parts::at(root, "");
    let _lock = PruneLock::take(root)?;
    let session = Session::begin(root)?;
    // Another repository may hold the same snapshots. A copy is one whose id is still in the damaged file.
    let damaged = storage::read_small_if_any(&paths.config(), MAX_JSON).ok().flatten().unwrap_or_default();
    let is_copy = |other: &Parts| occurs(other.id(), &damaged);
    let mut copy = None;
    for other in sources.iter().filter_map(|folder| Parts::open(folder).ok()) {
        task.check()?;
        copy = copy.or(Some(other).filter(is_copy));
    }
    task.check()?;
    let bytes = match copy {
        Some(copy) => storage::read_small(&copy.paths.config(), MAX_JSON)?,
        None => Parts::new_config(created_at)?,
    };
    let temp = session.temp("restored");
    storage::write_synced(&temp, &bytes)?;
    replace(&parts, &temp, &paths.config(), &mut done)?;
    Ok(done)
}

/// The damaged packs; see [`crate::Repository::damaged_packs`].
pub(super) fn damaged_packs(parts: &Parts, names: Option<Vec<PackName>>, task: &Task<'_>) -> Result<Vec<PackName>> {
    damaged_among(parts, names.map_or_else(|| parts.paths.pack_names(), Ok)?, task)
}

/// Repairs a repository; see [`crate::Repository::repair`].
pub(super) fn repair(parts: &Parts, suspects: Vec<PackName>, sources: &[PathBuf], task: &Task<'_>) -> Result<Repaired> {
    let _lock = PruneLock::take(parts.root())?;
    let session = Session::begin(parts.root())?;
    let sources = sources.iter().map(|folder| Source::open(folder)).collect::<Result<Vec<_>>>()?;
    let mut done = Repaired::default();
    parts.forget();
    let mut damaged: BTreeSet<_> = damaged_among(parts, suspects, task)?.into_iter().collect();
    restore_packs(parts, &mut damaged, &sources, &session, &mut done)?;
    rescue_chunks(parts, &damaged, &session, task, &mut done)?;
    let gone = repair_snapshots(parts, &sources, &session, &mut done)?;
    fetch_chunks(parts, &damaged, &sources, &session, task, &mut done)?;
    done.lost.extend(gone);
    done.lost.sort_by_key(|lost| lost.snapshot);
    for name in &damaged {
        quarantine(parts, &parts.paths.pack(name), &mut done)?;
    }
    repair_small_files(parts, &sources, &session, &mut done)?;
    done.problems = verify(parts, false, task)?.problems;
    Ok(done)
}

/// Restores damaged packs from a source that has them undamaged.
fn restore_packs(
    parts: &Parts,
    damaged: &mut BTreeSet<PackName>,
    sources: &[Source],
    session: &Session,
    done: &mut Repaired,
) -> Result<()> {
    for name in damaged.clone() {
        let temp = session.folder().join("restored.tmp");
        for source in sources.iter().filter(|s| s.chunks.placement().pack(&name).is_some()) {
            if copy_pack(&source.chunks.path(&name), &temp, name)? {
                replace(parts, &temp, &parts.paths.pack(&name), done)?;
                damaged.remove(&name);
                break;
            }
        }
    }
    Ok(())
}

/// Stores the undamaged chunks of damaged packs in new packs. Also those that no snapshot needs: a running save may
/// need them.
fn rescue_chunks(
    parts: &Parts,
    damaged: &BTreeSet<PackName>,
    session: &Session,
    task: &Task<'_>,
    done: &mut Repaired,
) -> Result<()> {
    let chunks = parts.packs.chunks()?;
    let all = chunks.placement();
    let condemned = parts.condemned.for_save()?.unwrap_or_default();
    let untrusted: HashSet<_> = damaged.iter().copied().chain(condemned.iter().copied()).collect();
    let mut rescue = Rescue::new(parts, session, condemned);
    for pack in damaged.iter().filter_map(|name| all.pack(name)) {
        for entry in &pack.entries {
            task.check()?;
            if all.stored(&entry.id, &untrusted).is_none() && !rescue.has(&entry.id) {
                let found = rescue.copy(&chunks, Location { pack, entry })?;
                done.chunks_rescued += u64::from(found.is_some());
            }
        }
    }
    rescue.finish().map(drop)
}

/// Copies chunks that the snapshots need, and that no pack has, from the sources. Records what is lost.
fn fetch_chunks(
    parts: &Parts,
    damaged: &BTreeSet<PackName>,
    sources: &[Source],
    session: &Session,
    task: &Task<'_>,
    done: &mut Repaired,
) -> Result<()> {
    let mut whole = (*parts.packs.refresh()?).clone();
    damaged.iter().for_each(|name| whole.remove(name));
    let whole = Chunks::new(Arc::new(whole), parts.paths.packs());
    let (mut rescue, mut fetched) = (Rescue::new(parts, session, parts.condemned.for_save()?.unwrap_or_default()), 0);
    let mut fetch = |id: &ChunkId| {
        let found = rescue.fetch(id, sources)?;
        fetched += u64::from(found.is_some());
        Ok(found)
    };
    let none = HashSet::new();
    let mut search = Search::new(&whole, &none, &mut fetch);
    for snapshot in parts.snapshots.readable()? {
        task.check()?;
        done.lost.extend(search.lost(&snapshot)?);
    }
    done.chunks_fetched = fetched;
    rescue.finish().map(drop)
}

/// Restores snapshot files that are damaged, or that an earlier repair moved to the quarantine. Those that no source
/// has are moved there. Returns what is lost.
fn repair_snapshots(parts: &Parts, sources: &[Source], session: &Session, done: &mut Repaired) -> Result<Vec<Lost>> {
    let mut lost = vec![];
    let mut numbers = BTreeSet::new();
    for folder in [parts.paths.snapshots(), parts.paths.quarantine().snapshots()] {
        numbers.extend(storage::list(&folder)?.iter().filter_map(|name| snapshot_number(name)));
    }
    for number in numbers {
        let place = parts.paths.snapshot(number);
        let (aside, damaged) = match storage::read_small_if_any(&place, MAX_JSON) {
            Ok(None) => (true, storage::read_small(&parts.paths.quarantine().snapshot(number), MAX_JSON)?),
            Ok(Some(bytes)) => match Snapshot::parse(&bytes, number, "") {
                Err(e) if e.kind() == ErrorKind::Corrupt => (false, bytes),
                _ => continue,
            },
            Err(e) if e.kind() == ErrorKind::Corrupt => (false, vec![]), // longer than a snapshot file may be
            Err(e) => return Err(e),
        };
        if let Some(bytes) = find_snapshot(sources, &damaged, number, parts.id())? {
            let temp = session.folder().join("restored.tmp");
            storage::write_synced(&temp, &bytes)?;
            replace(parts, &temp, &place, done)?;
            continue;
        }
        if !aside {
            // The number is not used again (docs/format.md §8).
            storage::claim(&parts.paths.claim(number))?;
            quarantine(parts, &place, done)?;
        }
        let id = digest_in(&damaged).map(|digest| digest.hex()[..32].to_owned());
        lost.push(Lost { snapshot: number, id, everything: true, ..Lost::default() });
    }
    restore_named(parts, sources, session, done)?;
    let there: HashSet<u64> = parts.snapshots.readable()?.iter().map(|s| s.number).collect();
    lost.retain(|lost| !there.contains(&lost.snapshot));
    Ok(lost)
}

/// Restores missing snapshot files that aliases name, from a copy of this repository, under their numbers.
fn restore_named(parts: &Parts, sources: &[Source], session: &Session, done: &mut Repaired) -> Result<()> {
    let there: HashSet<String> = parts.snapshots.readable()?.iter().map(|s| s.id.clone()).collect();
    for id in parts.aliases.readable_targets()?.difference(&there) {
        let copies = sources.iter().filter(|s| s.is_copy_of(parts.id()));
        for (bytes, number) in copies.filter_map(|s| s.file_of(id)) {
            let place = parts.paths.snapshot(number);
            if storage::is_free(&place)? {
                let temp = session.temp("restored");
                storage::write_synced(&temp, &bytes)?;
                replace(parts, &temp, &place, done)?;
                break;
            }
        }
    }
    Ok(())
}

/// Moves damaged aliases, journal entries and the list of condemned packs to the quarantine, because prune refuses to
/// run with them. An alias is restored from a copy of this repository, if there is one.
fn repair_small_files(parts: &Parts, sources: &[Source], session: &Session, done: &mut Repaired) -> Result<()> {
    for (kind, path) in parts.paths.small_files()? {
        if !is_damaged(&path, kind)? {
            continue;
        }
        let damaged = storage::read_small_if_any(&path, MAX_JSON).ok().flatten().unwrap_or_default();
        let shown = parts.paths.shown(&path);
        let copies = sources.iter().filter(|_| kind == "alias");
        let whole = |s: &Source| s.alias(&s.paths.root().join(&shown), &damaged, parts.id());
        match copies.filter_map(whole).next() {
            Some(bytes) => {
                let temp = session.temp("restored");
                storage::write_synced(&temp, &bytes)?;
                replace(parts, &temp, &path, done)?;
            }
            None => quarantine(parts, &path, done)?,
        }
    }
    Ok(())
}

/// Replaces the damaged file at `place` by `temp`, and keeps the damaged one in the quarantine. At no time is there no
/// file.
fn replace(parts: &Parts, temp: &Path, place: &Path, done: &mut Repaired) -> Result<()> {
    if storage::exists(place)? {
        let aside = free_place(parts, place)?;
        if storage::link(place, &aside).is_err() {
            copy(place, &aside)?;
        }
        storage::sync_dir(&storage::parent(&aside))?;
        done.quarantined.push(parts.paths.shown(place));
    }
    storage::rename(temp, place)?;
    storage::sync_dir(&storage::parent(place))?;
    done.restored.push(parts.paths.shown(place));
    Ok(())
}

fn quarantine(parts: &Parts, place: &Path, done: &mut Repaired) -> Result<()> {
    let aside = free_place(parts, place)?;
    storage::rename(place, &aside)?;
    // The new name is flushed first: a crash between the two may leave both names, but never none.
    storage::sync_dir(&storage::parent(&aside))?;
    storage::sync_dir(&storage::parent(place))?;
    done.quarantined.push(parts.paths.shown(place));
    Ok(())
}

/// A free name in the quarantine.
fn free_place(parts: &Parts, damaged: &Path) -> Result<PathBuf> {
    let place = parts.paths.quarantine().root().join(parts.paths.shown(damaged));
    storage::create_dir(&storage::parent(&place))?;
    let mut free = place.clone();
    for n in 1u32.. {
        if storage::is_free(&free)? {
            break;
        }
        free = PathBuf::from(format!("{}.{n}", place.display()));
    }
    Ok(free)
}
