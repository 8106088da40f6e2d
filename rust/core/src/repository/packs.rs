//! The packs of a repository, and a cache of their footers.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chunks::placement::{Pack, Placement};
use crate::chunks::read::Chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::PackName;
use crate::repository::paths::Paths;

/// The packs of a repository, as far as their footers have been read.
#[derive(Debug)]
pub(crate) struct Packs {
    paths: Paths,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    placement: Arc<Placement>,
    damaged: BTreeMap<PackName, Error>,
}

impl Packs {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was read, so that the files are read again.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }

    /// Reads the footers of new packs, and forgets packs that are gone.
    pub(crate) fn refresh(&self) -> Result<Arc<Placement>> {
        let names: HashSet<PackName> = self.paths.pack_names()?.into_iter().collect();
        let mut known = self.known();
        let gone: Vec<_> = known.placement.packs().map(|p| p.name).filter(|n| !names.contains(n)).collect();
        // Damaged packs are read again, because they may have been repaired.
        let come: Vec<_> = names.iter().copied().filter(|n| known.placement.pack(n).is_none()).collect();
        let (mut read, mut damaged) = (vec![], BTreeMap::new());
        for name in come {
            match Pack::read(&self.paths.pack(&name), name) {
                Ok(pack) => read.push(pack),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                Err(e) => drop(damaged.insert(name, e)),
            }
        }
        known.damaged = damaged;
        if gone.is_empty() && read.is_empty() {
            return Ok(Arc::clone(&known.placement));
        }
        let placement = Arc::make_mut(&mut known.placement);
        gone.iter().for_each(|name| placement.remove(name));
        read.into_iter().for_each(|pack| placement.insert(pack));
        Ok(Arc::clone(&known.placement))
    }

    /// The chunks in the packs, after a refresh.
    pub(crate) fn chunks(&self) -> Result<Chunks> {
        Ok(Chunks::new(self.refresh()?, self.paths.packs()))
    }

    /// Refuses if the file of this pack is damaged.
    pub(crate) fn refuse_damaged(&self, name: &PackName) -> Result<()> {
        match self.known().damaged.get(name) {
            Some(damage) => Err(damage.clone().context("the repository is damaged, repair it first")),
            None => Ok(()),
        }
    }

    /// Adds to an error about a missing chunk which pack is damaged, if one is.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.known().damaged.values().next() {
            Some(damage) if error.kind() == ErrorKind::Corrupt && damage.kind() == ErrorKind::Unsupported => {
                damage.clone()
            }
            Some(damage) if error.kind() == ErrorKind::Corrupt => error.context(damage),
            _ => error,
        }
    }

    /// Adds packs that were just written.
    pub(super) fn add(&self, packs: Vec<Pack>) {
        let mut known = self.known();
        let placement = Arc::make_mut(&mut known.placement);
        packs.into_iter().for_each(|pack| placement.insert(pack));
    }
}
