//! The snapshots of a repository: their files, and how one gets its number (docs/format.md §8).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::{Body, Snapshot};
use crate::repository::paths::{claim_number, snapshot_number};
use crate::repository::session::Session;
use crate::repository::{Repository, lock};
use crate::storage;

/// Snapshots by number, and the newest damaged one.
type Readable = (Vec<Arc<Snapshot>>, Option<(u64, Error)>);

impl Repository {
    pub(super) fn numbers(&self) -> Result<(BTreeSet<u64>, u64)> {
        let (mut numbers, mut highest) = (BTreeSet::new(), 0);
        for name in storage::list(&self.paths.snapshots())? {
            let number = snapshot_number(&name);
            numbers.extend(number);
            highest = number.or_else(|| claim_number(&name)).unwrap_or(0).max(highest);
        }
        Ok((numbers, highest))
    }

    pub(super) fn load(&self, number: u64) -> Result<Arc<Snapshot>> {
        if let Some(snapshot) = lock(&self.snapshots).get(&number) {
            return Ok(Arc::clone(snapshot));
        }
        let path = self.paths.snapshot(number);
        let bytes = storage::read_small(&path, MAX_JSON)?;
        let snapshot = Arc::new(Snapshot::parse(&bytes, number, &path.display().to_string())?);
        lock(&self.snapshots).insert(number, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// All snapshots by number.
    ///
    /// # Errors
    /// `Corrupt` where one is damaged.
    pub fn snapshots(&self) -> Result<Vec<Arc<Snapshot>>> {
        match self.readable()? {
            (all, None) => Ok(all),
            (_, Some((_, damage))) => Err(damage),
        }
    }

    /// The snapshots that can be read.
    pub(crate) fn readable_snapshots(&self) -> Result<Vec<Arc<Snapshot>>> {
        Ok(self.readable()?.0)
    }

    /// The snapshots that can be read by number, and the newest one that cannot, with its damage.
    pub(super) fn readable(&self) -> Result<Readable> {
        let (numbers, _) = self.numbers()?;
        lock(&self.snapshots).retain(|n, _| numbers.contains(n));
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

    /// The bytes of a snapshot file, for an artifact.
    pub fn snapshot_bytes(&self, number: u64) -> Result<Vec<u8>> {
        storage::read_small(&self.paths.snapshot(number), MAX_JSON)
    }

    /// The newest snapshot of a series that can be read.
    pub(super) fn newest(&self, series: &str) -> Option<Arc<Snapshot>> {
        let (numbers, _) = self.numbers().unwrap_or_default();
        numbers.iter().rev().filter_map(|&n| self.load(n).ok()).find(|s| s.body.series == series)
    }

    /// Flushes the names of the snapshots that are seen: their saver may have been killed before it did.
    pub(crate) fn flush_names(&self) -> Result<()> {
        self.settle()?;
        storage::sync_dir(&self.paths.snapshots())
    }

    pub(super) fn commit(&self, body: &Body, session: &Session) -> Result<Arc<Snapshot>> {
        self.commit_bytes(&body.seal()?, session)
    }

    /// Gives a snapshot file its number. What no reader would take is refused before it has one: it would stand in the way of
    /// every later look at the repository.
    pub(crate) fn commit_bytes(&self, bytes: &[u8], session: &Session) -> Result<Arc<Snapshot>> {
        let mut snapshot = Snapshot::parse(bytes, 0, "it")
            .map_err(|e| Error::invalid(format!("the snapshot cannot be written, no reader would take it: {e}")))?;
        let folder = self.paths.snapshots();
        storage::create_dir(&folder)?;
        let temp = session.temp("snapshot");
        storage::write_synced(&temp, bytes)?;
        let number = self.claim_number()?;
        let path = self.paths.snapshot(number);
        storage::rename(&temp, &path)?;
        storage::sync_dir(&folder)?;
        // The snapshot is committed; a claim that stays does no harm.
        let _ = storage::remove_file(&self.paths.claim(number));
        snapshot.number = number;
        let snapshot = Arc::new(snapshot);
        lock(&self.snapshots).insert(number, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    fn claim_number(&self) -> Result<u64> {
        loop {
            let number = self.numbers()?.1 + 1;
            if number > LAST_NUMBER {
                return Err(Error::corrupt(format!(
                    "{} holds a file with the number {LAST_NUMBER}, behind which there is none for a new snapshot",
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

/// Numbers have ten digits.
const LAST_NUMBER: u64 = 9_999_999_999;
