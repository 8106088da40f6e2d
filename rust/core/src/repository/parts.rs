//! The parts of a repository. They do not depend on each other. Each operation on several of them has a file of its
//! own: save, import, prune, verify, repair.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::format::envelope;
use crate::repository::aliases::Aliases;
use crate::repository::condemned::Condemned;
use crate::repository::packs::Packs;
use crate::repository::paths::Paths;
use crate::repository::session::Session;
use crate::repository::small_file;
use crate::repository::snapshots::Snapshots;
use crate::storage;
use crate::storage::names::random_name;

/// The parts of a repository.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) paths: Paths,
    pub(crate) packs: Packs,
    pub(crate) snapshots: Snapshots,
    pub(crate) aliases: Aliases,
    pub(crate) condemned: Condemned,
    id: String,
    settled: AtomicBool,
}

impl Parts {
    /// Opens a repository; see [`crate::Repository::open`].
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let body = small_file::read(&Paths::new(root).config(), "config")?.ok_or_else(|| {
            Error::not_found(format!("{} is not a lamina repository: it has no config.json", root.display()))
        })?;
        Ok(Self::at(root, body.get("id").and_then(Value::as_str).unwrap_or_default()))
    }

    /// The repository in this folder, without reading its config.
    pub(crate) fn at(root: &Path, id: &str) -> Self {
        let paths = Paths::new(root);
        Self {
            id: id.to_owned(),
            packs: Packs::new(paths.clone()),
            snapshots: Snapshots::new(paths.clone()),
            aliases: Aliases::new(paths.clone()),
            condemned: Condemned::new(paths.clone()),
            paths,
            settled: AtomicBool::new(false),
        }
    }

    /// The bytes of a new config.
    pub(crate) fn new_config(created_at: &str) -> Result<Vec<u8>> {
        envelope::seal("config", &envelope::body([("id", random_name().into()), ("created_at", created_at.into())]))
    }

    /// Opens a repository, or creates it; see [`crate::Repository::open_or_create`].
    pub(crate) fn open_or_create(root: &Path, created_at: &str) -> Result<Self> {
        match Self::open(root) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        let foreign = storage::list(root)?
            .into_iter()
            .find(|n| !matches!(n.as_str(), ".gitignore" | "packs" | "snapshots" | "sessions") && !n.starts_with('.'));
        if let Some(name) = foreign {
            return Err(Error::invalid(format!(
                "{} is not a lamina repository, and not empty (it holds {name:?}); pass an empty or a new folder",
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
        // Another process may do the same now. The last rename wins, and both open that config.
        let config = paths.config();
        if !storage::exists(&config)? {
            storage::write_atomic(&session.temp("config"), &config, &Self::new_config(created_at)?)?;
        }
        Self::open(root)
    }

    /// The folder of the repository.
    pub(crate) fn root(&self) -> &Path {
        self.paths.root()
    }

    /// The id of the repository.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Forgets what was read, so that the files are read again.
    pub(crate) fn forget(&self) {
        self.packs.forget();
        self.snapshots.forget();
    }

    /// Flushes the folder and its parent, once: the process that created them may have been killed before it did.
    pub(crate) fn settle(&self) -> Result<()> {
        if !self.settled.load(Ordering::Acquire) {
            storage::sync_dir(&storage::parent(self.root()))?;
            storage::sync_dir(self.root())?;
            self.settled.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Flushes the folder of snapshots: the process that saved one may have been killed before it did.
    pub(crate) fn flush_names(&self) -> Result<()> {
        self.settle()?;
        storage::sync_dir(&self.paths.snapshots())
    }
}
