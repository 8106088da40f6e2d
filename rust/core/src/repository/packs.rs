//! The packs of a repository: what has been read of their footers.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chunks::placement::{Pack, Placement};
use crate::chunks::read::Chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::PackName;
use crate::repository::paths::Paths;

/// What is known of the packs that are there.
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

    /// Forgets what has been read: the next look is at the files.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
    }

    /// Reads the footers of packs that have come, forgets packs that have gone.
    pub(crate) fn refresh(&self) -> Result<Arc<Placement>> {
        let names: HashSet<PackName> = self.paths.pack_names()?.into_iter().collect();
        let mut known = self.known();
        let gone: Vec<_> = known.placement.packs().map(|p| p.name).filter(|n| !names.contains(n)).collect();
        // Those that were damaged are looked at again: they may have been mended.
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

    /// The chunks that stand in packs now.
    pub(crate) fn chunks(&self) -> Result<Chunks> {
        Ok(Chunks::new(self.refresh()?, self.paths.packs()))
    }

    /// Refuses where a damaged file has the name of this pack.
    pub(crate) fn refuse_damaged(&self, name: &PackName) -> Result<()> {
        match self.known().damaged.get(name) {
            Some(damage) => Err(damage.clone().context("the repository is damaged, repair it first")),
            None => Ok(()),
        }
    }

    /// Makes an error that names a missing chunk say which pack is damaged, if one is.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.known().damaged.values().next() {
            Some(damage) if error.kind() == ErrorKind::Corrupt && damage.kind() == ErrorKind::Unsupported => {
                damage.clone()
            }
            Some(damage) if error.kind() == ErrorKind::Corrupt => error.context(damage),
            _ => error,
        }
    }

    /// Adds packs that have just been written.
    pub(super) fn add(&self, packs: Vec<Pack>) {
        let mut known = self.known();
        let placement = Arc::make_mut(&mut known.placement);
        packs.into_iter().for_each(|pack| placement.insert(pack));
    }
}
