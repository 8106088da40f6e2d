//! A repository: packs, snapshots, aliases, and the rules by which they change (docs/format.md §§3, 8, 9).

mod aliases;
mod condemned;
mod copies;
pub(crate) mod import;
pub(crate) mod lost;
mod names;
mod packs;
mod parts;
mod paths;
pub(crate) mod prune;
pub(crate) mod repair;
mod rescue;
pub(crate) mod retention;
mod save;
mod serving;
pub mod session;
mod small_file;
mod snapshots;
pub(crate) mod verify;
mod verify_sample;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use aliases::check_alias;

use crate::chunks::placement::Placement;
use crate::codec::CodecChoice;
use crate::error::Result;
use crate::format::digest::PackName;
use crate::format::snapshot::{Body, Snapshot};
use crate::layout::pieces::Layout;
use crate::layout::source::StateSource;
use crate::repository::import::Imported;
use crate::repository::parts::Parts;
use crate::repository::prune::Pruned;
use crate::repository::repair::Repaired;
use crate::repository::retention::Keep;
use crate::repository::verify::Report;
use crate::restore::reader::Reader;
use crate::task::Task;

/// An open repository. Safe to use from several threads; other processes may use the same folder at once.
#[derive(Debug)]
pub struct Repository {
    parts: Parts,
}

impl Repository {
    /// Opens a repository.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Corrupt` or `Unsupported` where its config is.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { parts: Parts::open(root)? })
    }

    /// Opens a repository, and makes it first where there is none; the folder may exist if it is empty of other things.
    pub fn open_or_create(root: &Path, created_at: &str) -> Result<Self> {
        Ok(Self { parts: Parts::open_or_create(root, created_at)? })
    }

    /// Brings back the `config.json` of the repository in `root` if it is damaged or missing: from a copy among `sources`
    /// that can still be told, else a new one, with another id, by which older copies are not known any more.
    ///
    /// # Errors
    /// `NotFound` where nothing speaks for a repository, `Io` where a prune is running.
    pub fn restore_config(root: &Path, sources: &[PathBuf], created_at: &str, task: &Task<'_>) -> Result<Repaired> {
        repair::restore_config(root, sources, created_at, task)
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        self.parts.root()
    }

    /// Its random id.
    pub fn id(&self) -> &str {
        self.parts.id()
    }

    /// All snapshots by number.
    ///
    /// # Errors
    /// `Corrupt` where one is damaged.
    pub fn snapshots(&self) -> Result<Vec<Arc<Snapshot>>> {
        self.parts.snapshots.all()
    }

    /// The bytes of a snapshot file, for an artifact.
    pub fn snapshot_bytes(&self, number: u64) -> Result<Vec<u8>> {
        self.parts.snapshots.bytes(number)
    }

    /// The snapshot that a user means: a user alias, `latest`, `best`, `epoch_N`, `epoch_N_batch_B`, a number, or the first 6
    /// or more digits of an id.
    pub fn resolve(&self, series: Option<&str>, reference: &str) -> Result<Arc<Snapshot>> {
        names::resolve(&self.parts, series, reference)
    }

    /// Number → the aliases of each snapshot: computed ones first, then the user's.
    pub fn aliases(&self) -> Result<HashMap<u64, Vec<String>>> {
        names::aliases(&self.parts)
    }

    /// Lets a user alias name a snapshot of its series; it moves if it exists.
    pub fn set_alias(&self, snapshot: &Snapshot, alias: &str) -> Result<()> {
        names::set_alias(&self.parts, snapshot, alias)
    }

    /// Deletes a user alias; `false` if there was none.
    pub fn remove_alias(&self, series: &str, alias: &str) -> Result<bool> {
        self.parts.aliases.remove(series, alias)
    }

    /// Reads the footers of packs that have come, forgets packs that have gone.
    pub fn refresh(&self) -> Result<Arc<Placement>> {
        self.parts.packs.refresh()
    }

    /// A reader of one snapshot.
    pub fn reader(&self, snapshot: &Snapshot) -> Result<Reader> {
        serving::reader(&self.parts, snapshot)
    }

    /// The packs that serve a snapshot, by name: each with its length.
    pub fn packs_of(&self, snapshot: &Snapshot) -> Result<Vec<(PackName, u64)>> {
        serving::packs_of(&self.parts, snapshot)
    }

    /// The bytes of `lamina.placement` for a snapshot.
    pub fn placement_bytes(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        serving::placement_bytes(&self.parts, snapshot)
    }

    /// Saves a state and commits a snapshot of it with the fields of `body`; its state, session and figures are filled in here.
    pub fn save(
        &self,
        body: Body,
        layout: &Layout,
        source: &dyn StateSource,
        codec: CodecChoice,
        task: &Task<'_>,
    ) -> Result<Arc<Snapshot>> {
        save::save(&self.parts, body, layout, source, codec, task)
    }

    /// Brings the snapshot of an artifact directory in: its packs under their names, its file byte for byte under the next
    /// number. With another `series` the file is written anew with that name, and has the id that follows from it.
    ///
    /// # Errors
    /// `Corrupt` where anything of it is not what its name says; then there is no snapshot.
    pub fn import(&self, folder: &Path, series: Option<&str>, task: &Task<'_>) -> Result<Imported> {
        import::import(&self.parts, folder, series, task)
    }

    /// Deletes the snapshots that `keep` does not hold (of `series`, or of each), then packs that nothing needs any more.
    /// Without `keep` only the latter. A prune that is interrupted can be started again.
    pub fn prune(&self, keep: Option<&Keep>, series: Option<&str>, dry_run: bool, task: &Task<'_>) -> Result<Pruned> {
        prune::prune(&self.parts, keep, series, dry_run, task)
    }

    /// Deletes one snapshot, then packs that nothing needs any more.
    ///
    /// # Errors
    /// `InvalidInput` where an alias names it, or its upload is under way.
    pub fn forget(&self, number: u64, dry_run: bool, task: &Task<'_>) -> Result<Pruned> {
        prune::forget(&self.parts, number, dry_run, task)
    }

    /// Verifies the structure of everything, with `full` also every byte of every pack.
    ///
    /// # Errors
    /// Only where the operating system refuses; damage is in the report.
    pub fn verify(&self, full: bool, task: &Task<'_>) -> Result<Report> {
        verify::verify(&self.parts, full, task)
    }

    /// Verifies the structure of everything and the bytes of about `share` of all stored chunks; `seed` decides which.
    ///
    /// # Errors
    /// `InvalidInput` for a share outside 0..=1, else only where the operating system refuses; damage is in the report.
    pub fn verify_sample(&self, share: f64, seed: u64, task: &Task<'_>) -> Result<Report> {
        verify_sample::verify_sample(&self.parts, share, seed, task)
    }

    /// Which of these packs are damaged, or of all without names: every byte of them is read.
    pub fn damaged_packs(&self, names: Option<Vec<PackName>>, task: &Task<'_>) -> Result<Vec<PackName>> {
        repair::damaged_packs(&self.parts, names, task)
    }

    /// Repairs the packs of `suspects` that are damaged, and every other file, with what `sources` hold.
    ///
    /// # Errors
    /// `Io` where a prune is running, `Unsupported` where locks do not work: nothing was changed.
    pub fn repair(&self, suspects: Vec<PackName>, sources: &[PathBuf], task: &Task<'_>) -> Result<Repaired> {
        repair::repair(&self.parts, suspects, sources, task)
    }
}
