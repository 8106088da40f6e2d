//! Prune: deletes snapshots that no rule keeps, and packs that are not needed any more (docs/format.md §9).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::Value;

use crate::chunks::closure::{Closure, Nodes, closure};
use crate::error::{Error, Result};
use crate::format::digest::PackName;
use crate::format::snapshot::Snapshot;
use crate::repository::parts::Parts;
use crate::repository::paths::small_files;
use crate::repository::retention::Keep;
use crate::repository::session::{self, PruneLock};
use crate::repository::small_file;
use crate::storage;
use crate::task::Task;

/// What a prune deleted, or would delete.
#[derive(Debug, Default, Clone)]
pub struct Pruned {
    /// The numbers of the deleted snapshots.
    pub snapshots: Vec<u64>,
    /// The number of deleted packs.
    pub packs: usize,
    /// The bytes of the deleted packs.
    pub bytes: u64,
    /// The number of packs that a later prune deletes, because saves that are running may use them.
    pub waiting: usize,
}

/// Prunes a repository; see [`crate::Repository::prune`].
pub(super) fn prune(
    parts: &Parts,
    keep: Option<&Keep>,
    series: Option<&str>,
    dry_run: bool,
    task: &Task<'_>,
) -> Result<Pruned> {
    if let Some(keep) = keep {
        keep.check()?;
    }
    delete(parts, dry_run, task, |all| keep.map_or(Ok(BTreeSet::new()), |keep| doomed(parts, keep, series, all)))
}

/// Deletes one snapshot, then packs that nothing needs any more.
///
/// # Errors
/// `InvalidInput` where an alias names it, or its upload is under way.
pub(super) fn forget(parts: &Parts, number: u64, dry_run: bool, task: &Task<'_>) -> Result<Pruned> {
    delete(parts, dry_run, task, |all| {
        let gone = || Error::not_found(format!("snapshot {number} is gone"));
        let meant = all.iter().find(|s| s.number == number).ok_or_else(gone)?;
        let twins = all.iter().filter(|s| s.id == meant.id).count();
        let mut named = parts.aliases.all()?.into_iter().filter(|(_, id)| *id == meant.id);
        if let Some((alias, _)) = named.next().filter(|_| twins == 1) {
            return Err(Error::invalid(format!(
                "snapshot {number} has the alias {alias:?}, which holds it; nothing was deleted. Remove the alias first"
            )));
        }
        if journal(parts)?.0.contains(&meant.id) {
            return Err(Error::invalid(format!("snapshot {number} is being uploaded; nothing was deleted")));
        }
        Ok(BTreeSet::from([number]))
    })
}

/// Deletes the snapshots that `choose` names among all of them, then packs that nothing needs any more.
fn delete(
    parts: &Parts,
    dry_run: bool,
    task: &Task<'_>,
    choose: impl FnOnce(&[Arc<Snapshot>]) -> Result<BTreeSet<u64>>,
) -> Result<Pruned> {
    let _lock = PruneLock::take(parts.root())?;
    if !dry_run {
        parts.condemned.sweep()?;
        // Flush names whose writer may have been killed before it did: after the deletion they must neither appear nor
        // vanish.
        parts.settle()?;
        parts.aliases.sync()?;
    }
    let all = parts.snapshots.all()?;
    let doomed = choose(&all)?;
    refuse_lost(parts, &all)?;
    let stay: Vec<_> = all.iter().filter(|s| !doomed.contains(&s.number)).cloned().collect();
    // Before anything is deleted: whatever stays must be complete, else the prune would hide a loss.
    let needed = needed_packs(parts, &stay, task)?;
    let mut pruned = Pruned { snapshots: doomed.iter().copied().collect(), ..Pruned::default() };
    if dry_run {
        let known = parts.packs.refresh()?;
        let dead = known.packs().filter(|p| !needed.contains(&p.name));
        dead.for_each(|p| {
            pruned.packs += 1;
            pruned.bytes += p.length;
        });
        return Ok(pruned);
    }
    session::sweep(parts.root())?;
    parts.snapshots.delete(&doomed, task)?;
    delete_packs(parts, &needed, task, &mut pruned)?;
    Ok(pruned)
}

/// Refuses if an alias names a snapshot whose file is lost: its packs would be deleted, but with a copy of that file
/// the snapshot can be restored from them.
fn refuse_lost(parts: &Parts, all: &[Arc<Snapshot>]) -> Result<()> {
    let lost = parts.aliases.all()?.into_iter().find(|(_, id)| all.iter().all(|s| s.id != *id));
    lost.map_or(Ok(()), |(alias, id)| {
        Err(Error::corrupt(format!(
            "alias {alias:?} names snapshot {id}, whose file is lost; nothing was deleted. Repair the repository from \
             a copy first, or remove the alias to give up the snapshot"
        )))
    })
}

fn doomed(parts: &Parts, keep: &Keep, series: Option<&str>, all: &[Arc<Snapshot>]) -> Result<BTreeSet<u64>> {
    let mut held_ids: HashSet<String> = parts.aliases.all()?.into_iter().map(|a| a.1).collect();
    held_ids.extend(journal(parts)?.0);
    let mut groups: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
    for s in all.iter().filter(|s| series.is_none_or(|n| n == s.body.series)) {
        groups.entry(&s.body.series).or_default().push(s);
    }
    if let Some(name) = series
        && groups.is_empty()
    {
        return Err(Error::not_found(format!("{} has no series {name:?}", parts.root().display())));
    }
    let mut doomed = BTreeSet::new();
    for inside in groups.values() {
        let held = keep.held(inside);
        doomed
            .extend(inside.iter().filter(|s| !held.contains(&s.number) && !held_ids.contains(&s.id)).map(|s| s.number));
    }
    Ok(doomed)
}

/// The packs that these snapshots, or uploads that are running, need.
fn needed_packs(parts: &Parts, snapshots: &[Arc<Snapshot>], task: &Task<'_>) -> Result<HashSet<PackName>> {
    let chunks = parts.packs.chunks()?;
    let mut nodes = Nodes::new();
    let mut needed = journal(parts)?.1;
    for snapshot in snapshots {
        task.check()?;
        let ids = closure(&chunks, &snapshot.body.state, &mut nodes).map(Closure::ids);
        let serving = ids.and_then(|ids| chunks.placement().serve(&ids));
        let serving = serving.map_err(|e| {
            parts.packs.explain(e).context(format!("snapshot {} is not complete, nothing was deleted", snapshot.number))
        })?;
        needed.extend(serving.live.into_keys());
    }
    Ok(needed)
}

/// The snapshot ids and the packs that uploads need which are running.
fn journal(parts: &Parts) -> Result<(HashSet<String>, HashSet<PackName>)> {
    let (mut ids, mut packs) = (HashSet::new(), HashSet::new());
    for path in small_files(&parts.paths.journal())? {
        let Some(body) = small_file::read(&path, "journal")? else { continue };
        let strings = |field: &str| {
            body.get(field)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        ids.extend(strings("snapshots"));
        packs.extend(strings("packs").iter().filter_map(|p| PackName::from_hex(p)));
    }
    Ok((ids, packs))
}

fn delete_packs(parts: &Parts, needed: &HashSet<PackName>, task: &Task<'_>, pruned: &mut Pruned) -> Result<()> {
    let known = parts.packs.refresh()?;
    let mut condemned = parts.condemned.read().ok().flatten().unwrap_or_default();
    condemned.retain(|name, _| known.pack(name).is_some());
    for pack in known.packs().filter(|p| !needed.contains(&p.name)) {
        condemned.entry(pack.name).or_insert(None);
    }
    if condemned.is_empty() {
        return parts.condemned.clear();
    }
    parts.condemned.write(&condemned)?;
    // Only after the list is written: a save that has not read it is alive now, or has ended.
    let alive = session::alive(parts.root())?;
    for sessions in condemned.values_mut() {
        sessions.get_or_insert_with(|| alive.clone());
    }
    parts.condemned.write(&condemned)?;
    let due: Vec<_> = condemned
        .iter()
        .filter(|(_, s)| !s.iter().flatten().any(|n| session::is_alive(parts.root(), n)))
        .map(|(n, _)| *n)
        .collect();
    // The sessions of these packs have ended, so the snapshots that they committed are visible now.
    let needed = needed_packs(parts, &parts.snapshots.all()?, task)?;
    for name in due {
        task.check()?;
        if !needed.contains(&name) {
            pruned.packs += 1;
            pruned.bytes += known.pack(&name).map_or(0, |p| p.length);
            storage::remove_file(&parts.paths.pack(&name))?;
        }
        condemned.remove(&name);
    }
    pruned.waiting = condemned.len();
    storage::sync_dir(&parts.paths.packs())?;
    if condemned.is_empty() { parts.condemned.clear() } else { parts.condemned.write(&condemned) }
}
