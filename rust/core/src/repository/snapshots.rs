//! The snapshots of a repository: their files, and how one gets its number (docs/format.md §8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::Snapshot;
use crate::repository::paths::{Paths, claim_number, snapshot_number};
use crate::repository::session::Session;
use crate::storage;
use crate::task::Task;

/// Snapshots, sorted by number, and the newest one that cannot be read, with its error.
type Readable = (Vec<Arc<Snapshot>>, Option<(u64, Error)>);

/// The snapshot files of a repository, and a cache of them.
#[derive(Debug)]
pub(crate) struct Snapshots {
    paths: Paths,
    held: Mutex<BTreeMap<u64, Arc<Snapshot>>>,
}

impl Snapshots {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Snapshot>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was read, so that the files are read again.
    pub(super) fn forget(&self) {
        self.held().clear();
    }

    /// The numbers of the snapshot files, and the highest number that is taken: by a file or a claim.
    pub(super) fn numbers(&self) -> Result<(BTreeSet<u64>, u64)> {
        let (mut numbers, mut highest) = (BTreeSet::new(), 0);
        for name in storage::list(&self.paths.snapshots())? {
            let number = snapshot_number(&name);
            numbers.extend(number);
            highest = number.or_else(|| claim_number(&name)).unwrap_or(0).max(highest);
        }
        Ok((numbers, highest))
    }

    fn load(&self, number: u64) -> Result<Arc<Snapshot>> {
        if let Some(snapshot) = self.held().get(&number) {
            return Ok(Arc::clone(snapshot));
        }
        let path = self.paths.snapshot(number);
        let bytes = storage::read_small(&path, MAX_JSON)?;
        let snapshot = Arc::new(Snapshot::parse(&bytes, number, &path.display().to_string())?);
        self.held().insert(number, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// All snapshots, sorted by number. An error if one cannot be read.
    pub(crate) fn all(&self) -> Result<Vec<Arc<Snapshot>>> {
        match self.readable_and_damage()? {
            (all, None) => Ok(all),
            (_, Some((_, damage))) => Err(damage),
        }
    }

    /// The snapshots that can be read, sorted by number.
    pub(crate) fn readable(&self) -> Result<Vec<Arc<Snapshot>>> {
        Ok(self.readable_and_damage()?.0)
    }

    /// The snapshots that can be read, sorted by number, and the newest one that cannot, with its error.
    pub(super) fn readable_and_damage(&self) -> Result<Readable> {
        let (numbers, _) = self.numbers()?;
        self.held().retain(|n, _| numbers.contains(n));
        let (mut all, mut damaged) = (vec![], None);
        for number in numbers {
            match self.load(number) {
                Ok(snapshot) => all.push(snapshot),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                Err(e) => damaged = Some((number, e)),
            }
        }
        Ok((all, damaged))
    }

    /// The bytes of a snapshot file.
    pub(super) fn bytes(&self, number: u64) -> Result<Vec<u8>> {
        storage::read_small(&self.paths.snapshot(number), MAX_JSON)
    }

    /// The newest snapshot of a series, of those that can be read.
    pub(super) fn newest(&self, series: &str) -> Option<Arc<Snapshot>> {
        let (numbers, _) = self.numbers().unwrap_or_default();
        numbers.iter().rev().filter_map(|&n| self.load(n).ok()).find(|s| s.body.series == series)
    }

    /// Commits a snapshot: writes its file under the next number. It is checked first, because a file that cannot be
    /// read would make every later list of snapshots fail.
    pub(crate) fn commit(&self, bytes: &[u8], session: &Session) -> Result<Arc<Snapshot>> {
        let mut snapshot = Snapshot::parse(bytes, 0, "it").map_err(|e| {
            Error::invalid(format!("the snapshot cannot be written, because no reader would accept it: {e}"))
        })?;
        let folder = self.paths.snapshots();
        storage::create_dir(&folder)?;
        let temp = session.temp("snapshot");
        storage::write_synced(&temp, bytes)?;
        let number = self.claim_number()?;
        let path = self.paths.snapshot(number);
        storage::rename(&temp, &path)?;
        storage::sync_dir(&folder)?;
        // The snapshot is committed. A claim that remains does no harm.
        let _ = storage::remove_file(&self.paths.claim(number));
        snapshot.number = number;
        let snapshot = Arc::new(snapshot);
        self.held().insert(number, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Deletes snapshots. The highest number stays taken, by a claim.
    pub(super) fn delete(&self, doomed: &BTreeSet<u64>, task: &Task<'_>) -> Result<()> {
        let folder = self.paths.snapshots();
        // Also if there is nothing to delete: a prune that was killed may have deleted snapshots, and this one deletes
        // their packs.
        storage::sync_dir(&folder)?;
        if doomed.is_empty() {
            return Ok(());
        }
        let (_, highest) = self.numbers()?;
        if doomed.contains(&highest) {
            storage::claim(&self.paths.claim(highest))?;
            storage::sync_dir(&folder)?;
        }
        for &number in doomed {
            task.check()?;
            storage::remove_file(&self.paths.snapshot(number))?;
            self.held().remove(&number);
        }
        for name in storage::list(&folder)? {
            // A claim below the highest number is not needed any more: lower numbers are never used again.
            if claim_number(&name).is_some_and(|n| n < highest) {
                storage::remove_file(&folder.join(name))?;
            }
        }
        storage::sync_dir(&folder)
    }

    fn claim_number(&self) -> Result<u64> {
        loop {
            let number = self.numbers()?.1 + 1;
            if number > LAST_NUMBER {
                return Err(Error::corrupt(format!(
                    "{} holds a file with the number {LAST_NUMBER}, which is the last one; a new snapshot cannot get a number",
                    self.paths.snapshots().display()
                )));
            }
            if !storage::claim(&self.paths.claim(number))? {
                continue;
            }
            if !storage::exists(&self.paths.snapshot(number))? {
                return Ok(number);
            }
            storage::remove_file(&self.paths.claim(number))?;
        }
    }
}

/// The last number: numbers have ten digits.
const LAST_NUMBER: u64 = 9_999_999_999;
