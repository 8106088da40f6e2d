//! Verification: checks that a repository holds what was written. Nothing is changed.

use std::collections::HashSet;

use serde_json::Value;

use crate::chunks::check_pack::{PackReport, check_footer, check_pack, read_delta};
use crate::chunks::read::{Chunks, Scratch};
use crate::codec::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, PackName};
use crate::repository::lost::{Lost, Search};
use crate::repository::parts::Parts;
use crate::repository::paths::small_files;
use crate::repository::small_file;
use crate::restore::reader::Reader;
use crate::storage;
use crate::task::Task;

/// The result of a verify: what was checked, and what was found.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// The number of snapshots.
    pub snapshots: usize,
    /// The number of packs.
    pub packs: usize,
    /// The number of chunks that were decoded and hashed.
    pub chunks: u64,
    /// The bytes of packs that were read for that.
    pub bytes: u64,
    /// The problems that were found, each a sentence.
    pub problems: Vec<String>,
    /// The snapshots that have lost something, as far as it was checked.
    pub lost: Vec<Lost>,
}

/// Verifies a repository; see [`crate::Repository::verify`].
pub(super) fn verify(parts: &Parts, full: bool, task: &Task<'_>) -> Result<Report> {
    let mut report = Report::default();
    parts.forget();
    verify_small_files(parts, &mut report)?;
    let damaged = verify_packs(parts, full, task, &mut report)?;
    verify_snapshots(parts, task, &mut report)?;
    if !report.problems.is_empty() {
        report.lost = lost(parts, &damaged, task)?;
    }
    Ok(report)
}

/// What the snapshots have lost, if these chunks are damaged in these packs.
pub(crate) fn lost(parts: &Parts, damaged: &HashSet<(PackName, ChunkId)>, task: &Task<'_>) -> Result<Vec<Lost>> {
    let chunks = parts.packs.chunks()?;
    let mut nowhere = |_: &ChunkId| Ok(None);
    let mut search = Search::new(&chunks, damaged, &mut nowhere);
    let mut found = vec![];
    for snapshot in parts.snapshots.readable()? {
        task.check()?;
        // A snapshot that a prune has deleted meanwhile is not lost.
        if let Some(lost) = search.lost(&snapshot)?
            && storage::exists(&parts.paths.snapshot(snapshot.number))?
        {
            found.push(lost);
        }
    }
    Ok(found)
}

fn verify_small_files(parts: &Parts, report: &mut Report) -> Result<()> {
    let mut targets = vec![];
    for (kind, path) in [("config", parts.paths.config())].into_iter().chain(parts.paths.small_files()?) {
        let body = note(report, small_file::read(&path, kind))?.flatten();
        targets.extend(body.filter(|_| kind == "alias").map(|body| (path, body)));
    }
    let ids: HashSet<String> =
        note(report, parts.snapshots.all())?.into_iter().flatten().map(|s| s.id.clone()).collect();
    for (path, body) in targets {
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        if path != parts.paths.alias(&text("series"), &text("alias")) {
            report.problems.push(format!("{} has the name of another alias than {:?}", path.display(), text("alias")));
        } else if !ids.contains(&text("snapshot")) {
            report.problems.push(format!(
                "alias {:?} of {:?} names a snapshot that is gone",
                text("alias"),
                text("series")
            ));
        }
    }
    Ok(())
}

/// Verifies the packs. Returns the damaged chunks, each with its pack.
fn verify_packs(
    parts: &Parts,
    full: bool,
    task: &Task<'_>,
    report: &mut Report,
) -> Result<HashSet<(PackName, ChunkId)>> {
    let names = parts.paths.pack_names()?;
    report.packs = names.len();
    if full {
        let length = |n: &PackName| storage::rough_length(&parts.paths.pack(n));
        task.begin("verifying", names.iter().map(length).sum());
    }
    let chunks = parts.packs.chunks()?;
    let check = |(decoder, scratch): &mut (Decoder, Scratch), name: PackName| {
        let path = parts.paths.pack(&name);
        match full {
            true => check_pack(&path, name, decoder, |entry, raw| read_delta(&chunks, name, entry, scratch, raw)),
            false => check_footer(&path, name),
        }
    };
    let mut damaged = HashSet::new();
    check_packs(names, task, check, |name, found| {
        task.advance(found.bytes);
        report.chunks += found.chunks;
        report.bytes += found.bytes;
        report.problems.extend(found.problems.iter().map(|problem| problem.message().to_owned()));
        damaged.extend(found.damaged.into_iter().map(|id| (name, id)));
    })?;
    Ok(damaged)
}

/// The damaged packs among `names`. Reads every byte. A pack of a newer version is not damaged.
pub(crate) fn damaged_among(parts: &Parts, names: Vec<PackName>, task: &Task<'_>) -> Result<Vec<PackName>> {
    // The digest of the pack verifies the bytes of a delta. To decode it would need its base, which is in another pack.
    let check = |(decoder, _): &mut (Decoder, Scratch), name: PackName| {
        check_pack(&parts.paths.pack(&name), name, decoder, |_, _| None)
    };
    let mut damaged = vec![];
    check_packs(names, task, check, |name, found| {
        damaged.extend(found.problems.iter().any(|e| e.kind() == ErrorKind::Corrupt).then_some(name));
    })?;
    Ok(damaged)
}

/// Checks packs in parallel. `each` gets the reports in the order of `names`.
fn check_packs(
    names: Vec<PackName>,
    task: &Task<'_>,
    check: impl Fn(&mut (Decoder, Scratch), PackName) -> Result<PackReport> + Sync,
    mut each: impl FnMut(PackName, PackReport),
) -> Result<()> {
    let mut names = names.into_iter();
    let work = |buffers: &mut (Decoder, Scratch), name| Ok((name, check(buffers, name)?));
    task.run(
        16,
        || Ok(names.next()),
        Default::default,
        work,
        |(name, found)| {
            each(name, found);
            Ok(())
        },
    )
}

fn verify_snapshots(parts: &Parts, task: &Task<'_>, report: &mut Report) -> Result<()> {
    report.snapshots = small_files(&parts.paths.snapshots())?.len();
    let Some(placement) = note(report, parts.packs.refresh())? else { return Ok(()) };
    for snapshot in note(report, parts.snapshots.all())?.into_iter().flatten() {
        task.check()?;
        let open = |placement| Reader::open(Chunks::new(placement, parts.paths.packs()), &snapshot);
        let Err(_) = open(placement.clone()) else { continue };
        // The snapshot may be newer than the placement, or a prune may have deleted it.
        if storage::exists(&parts.paths.snapshot(snapshot.number))? {
            let reader = parts.packs.refresh().and_then(open);
            note(report, reader.map_err(|e| e.context(format!("snapshot {}", snapshot.number))))?;
        }
    }
    Ok(())
}

/// Adds damage to the report. Errors of the operating system, and interrupts, stay errors.
fn note<T>(report: &mut Report, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Cancelled) => Err(e),
        Err(e) => {
            if !report.problems.iter().any(|p| p == e.message()) {
                report.problems.push(e.message().to_owned());
            }
            Ok(None)
        }
    }
}

impl Report {
    /// `lost` as a JSON array.
    ///
    /// # Errors
    /// `InvalidInput` if it cannot be written as JSON.
    pub fn lost_json(&self) -> Result<String> {
        serde_json::to_string(&self.lost).map_err(|e| Error::invalid(format!("the report cannot be written: {e}")))
    }

    /// A `Corrupt` error with the first problem and the number of others; `None` if there is no problem.
    pub fn error(&self) -> Option<Error> {
        let (first, more) = (self.problems.first()?, self.problems.len() - 1);
        let more = if more == 0 { String::new() } else { format!(" (and {more} more problems)") };
        Some(Error::corrupt(format!("{first}{more}")))
    }
}
