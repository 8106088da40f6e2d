//! A repository: packs, snapshots, aliases, and the rules by which they change (docs/format.md §§3, 8, 9).

mod condemned;
mod copies;
pub mod import;
pub mod lost;
pub mod names;
mod paths;
pub mod prune;
pub mod repair;
mod rescue;
pub mod retention;
pub mod save;
pub mod session;
mod small_file;
mod snapshots;
pub mod verify;
pub mod verify_sample;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::chunks::placement::{Pack, Placement};
use crate::chunks::read::Chunks;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::PackName;
use crate::format::envelope;
use crate::format::snapshot::Snapshot;
use crate::repository::paths::Paths;
use crate::repository::session::Session;
use crate::restore::reader::{self, Reader};
use crate::storage;
use crate::storage::names::random_name;

/// An open repository. Safe to use from several threads; other processes may use the same folder at once.
#[derive(Debug)]
pub struct Repository {
    paths: Paths,
    id: String,
    placement: Mutex<Known>,
    snapshots: Mutex<BTreeMap<u64, Arc<Snapshot>>>,
    settled: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    placement: Arc<Placement>,
    damaged: BTreeMap<PackName, Error>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Repository {
    /// Opens a repository.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Corrupt` or `Unsupported` where its config is.
    pub fn open(root: &Path) -> Result<Self> {
        let body = small_file::read(&Paths::new(root).config(), "config")?.ok_or_else(|| {
            Error::not_found(format!("{} is not a lamina repository: it has no config.json", root.display()))
        })?;
        Ok(Self::at(root, body.get("id").and_then(Value::as_str).unwrap_or_default()))
    }

    /// The repository in this folder, whatever its config says.
    pub(crate) fn at(root: &Path, id: &str) -> Self {
        Self {
            paths: Paths::new(root),
            id: id.to_owned(),
            placement: Mutex::default(),
            snapshots: Mutex::default(),
            settled: AtomicBool::new(false),
        }
    }

    /// The bytes of a new config.
    pub(crate) fn new_config(created_at: &str) -> Result<Vec<u8>> {
        envelope::seal("config", &envelope::body([("id", random_name().into()), ("created_at", created_at.into())]))
    }

    /// Opens a repository, and makes it first where there is none; the folder may exist if it is empty of other things.
    pub fn open_or_create(root: &Path, created_at: &str) -> Result<Self> {
        match Self::open(root) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        let foreign = storage::list(root)?
            .into_iter()
            .find(|n| !matches!(n.as_str(), ".gitignore" | "packs" | "snapshots" | "sessions") && !n.starts_with('.'));
        if let Some(name) = foreign {
            return Err(Error::invalid(format!(
                "{} is no lamina repository and not empty (it holds {name:?}); give an empty or new folder",
                root.display()
            )));
        }
        let paths = Paths::new(root);
        for folder in [paths.packs(), paths.snapshots(), paths.sessions()] {
            storage::create_dir(&folder)?;
        }
        let session = Session::begin(root)?;
        let ignore = root.join(".gitignore");
        if !storage::exists(&ignore)? {
            storage::write_atomic(&session.temp("gitignore"), &ignore, b"*\n")?;
        }
        // Another process may do the same now; the one who renames last wins, and both open what then stands there.
        let config = paths.config();
        if !storage::exists(&config)? {
            storage::write_atomic(&session.temp("config"), &config, &Self::new_config(created_at)?)?;
        }
        Self::open(root)
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        self.paths.root()
    }

    /// Its random id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Forgets what has been read: the next look is at the files.
    pub(crate) fn forget(&self) {
        *lock(&self.placement) = Known::default();
        lock(&self.snapshots).clear();
    }

    /// Flushes the names that everything else stands under; who made them may have been killed before it did. Once is enough.
    fn settle(&self) -> Result<()> {
        if !self.settled.load(Ordering::Acquire) {
            storage::sync_dir(&storage::parent(self.root()))?;
            storage::sync_dir(self.root())?;
            self.settled.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Reads the footers of packs that have come, forgets packs that have gone.
    pub fn refresh(&self) -> Result<Arc<Placement>> {
        let names: HashSet<PackName> = self.paths.pack_names()?.into_iter().collect();
        let mut known = lock(&self.placement);
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
        match lock(&self.placement).damaged.get(name) {
            Some(damage) => Err(damage.clone().context("the repository is damaged, repair it first")),
            None => Ok(()),
        }
    }

    /// Makes an error that names a missing chunk say which pack is damaged, if one is.
    fn explain(&self, error: Error) -> Error {
        match lock(&self.placement).damaged.values().next() {
            Some(damage) if error.kind() == ErrorKind::Corrupt && damage.kind() == ErrorKind::Unsupported => {
                damage.clone()
            }
            Some(damage) if error.kind() == ErrorKind::Corrupt => error.context(damage),
            _ => error,
        }
    }

    /// A reader of one snapshot.
    pub fn reader(&self, snapshot: &Snapshot) -> Result<Reader> {
        let (path, number) = (self.paths.snapshot(snapshot.number), snapshot.number);
        match Reader::open_partly(self.chunks()?, snapshot) {
            Ok(reader) => Ok(reader.of_file(path, number, |e| self.explain(e))),
            Err(e) => Err(reader::told(self.explain(e), &path, number)),
        }
    }

    /// The packs that serve a snapshot, by name: each with its length.
    pub fn packs_of(&self, snapshot: &Snapshot) -> Result<Vec<(PackName, u64)>> {
        let (placement, names) = self.serving(snapshot)?;
        let mut packs: Vec<_> = names.iter().filter_map(|n| placement.pack(n)).map(|p| (p.name, p.length)).collect();
        packs.sort();
        Ok(packs)
    }

    /// The bytes of `lamina.placement` for a snapshot.
    pub fn placement_bytes(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        let (placement, names) = self.serving(snapshot)?;
        Ok(placement.to_bytes(&names))
    }

    /// The packs that serve a snapshot, and the placement that they were found in: a second look may find others.
    fn serving(&self, snapshot: &Snapshot) -> Result<(Arc<Placement>, HashSet<PackName>)> {
        let chunks = self.chunks()?;
        let placement = chunks.shared_placement();
        let reader = Reader::open(chunks, snapshot);
        let told = |e| reader::told(self.explain(e), &self.paths.snapshot(snapshot.number), snapshot.number);
        Ok((placement, reader.map_err(told)?.packs()))
    }
}
