//! Repositories: packs, snapshots, aliases, and the rules by which they change (docs/format.md §§3, 8, 9).

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

/// An open repository.
///
/// Several threads may use it at the same time. So may several processes use the same folder.
///
/// # Examples
/// ```
/// use lamina_core::{Body, CodecChoice, Layout, MemorySource, Repository, Task, TensorSpec, Want};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let repository = Repository::open_or_create(folder, "2026-01-01T00:00:00Z")?;
///
/// // One training tensor of two float32 numbers, and no files.
/// let seed = TensorSpec {
///     name: "seed".into(),
///     dtype: "<f4".into(),
///     shape: vec![2],
///     role: "training".into(),
///     offset: 0,
/// };
/// let layout = Layout::new(&[], &[seed])?;
/// let source = MemorySource { tensors: vec![vec![&[1, 2, 3, 4, 5, 6, 7, 8]]], literals: vec![] };
/// source.check(&layout)?;
/// let fields = r#"{"created_at": "2026-01-01T00:00:00Z", "series": "main", "kind": "files"}"#;
/// let body: Body = serde_json::from_str(fields).unwrap();
/// let snapshot = repository.save(body, &layout, &source, CodecChoice::Auto, &Task::new(1)?)?;
///
/// let mut bytes = [0; 8];
/// repository.reader(&snapshot)?.read(vec![Want { offset: 0, to: &mut bytes }], &Task::new(1)?)?;
/// assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8]);
/// # Ok::<(), lamina_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Repository {
    parts: Parts,
}

impl Repository {
    /// Opens the repository in the folder `root`.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Corrupt` if its `config.json` is damaged, `Unsupported` if a newer lamina wrote
    /// it.
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { parts: Parts::open(root)? })
    }

    /// Opens the repository in the folder `root`, or creates it if there is none. `created_at` is the time that a new
    /// `config.json` records.
    ///
    /// # Errors
    /// `InvalidInput` if the folder has other files, `Io` if it cannot be written, else those of [`Repository::open`].
    pub fn open_or_create(root: &Path, created_at: &str) -> Result<Self> {
        Ok(Self { parts: Parts::open_or_create(root, created_at)? })
    }

    /// Restores a `config.json` that is damaged or missing. It is copied from the source whose id is still in the
    /// damaged file. If there is no such source, it is new and has another id; older copies are then not recognized as
    /// copies any more.
    ///
    /// # Errors
    /// `NotFound` if the folder is not a repository at all, `Busy` if a prune is running, `Unsupported` if file locks
    /// do not work there, `Io` if a file cannot be read or written.
    pub fn restore_config(root: &Path, sources: &[PathBuf], created_at: &str, task: &Task<'_>) -> Result<Repaired> {
        repair::restore_config(root, sources, created_at, task)
    }

    /// The folder of the repository.
    pub fn root(&self) -> &Path {
        self.parts.root()
    }

    /// The id of the repository: random hex digits in its `config.json`.
    pub fn id(&self) -> &str {
        self.parts.id()
    }

    /// All snapshots, sorted by number.
    ///
    /// # Errors
    /// `Corrupt` if one is damaged, `Unsupported` if a newer lamina wrote one, `Io` if one cannot be read.
    pub fn snapshots(&self) -> Result<Vec<Arc<Snapshot>>> {
        self.parts.snapshots.all()
    }

    /// The bytes of the snapshot file with this number.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Corrupt` if it is longer than 64 MiB, `Io` if it cannot be read.
    pub fn snapshot_bytes(&self, number: u64) -> Result<Vec<u8>> {
        self.parts.snapshots.bytes(number)
    }

    /// The snapshot that a reference names: a user alias, `latest`, `best`, `epoch_N`, `epoch_N_batch_B`, a number, or
    /// the first 6 or more digits of an id.
    ///
    /// # Errors
    /// `NotFound` if there is no such snapshot or series. `InvalidInput` if the repository has several series, and
    /// neither `series` nor the reference says which. `Corrupt` if a damaged file may be the one that is meant.
    pub fn resolve(&self, series: Option<&str>, reference: &str) -> Result<Arc<Snapshot>> {
        names::resolve(&self.parts, series, reference)
    }

    /// The aliases of each snapshot, by its number: first the computed ones, then those of the user.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` or `Io` if a snapshot file or an alias file cannot be read.
    pub fn aliases(&self) -> Result<HashMap<u64, Vec<String>>> {
        names::aliases(&self.parts)
    }

    /// Makes a user alias name this snapshot, in the series of the snapshot. An alias that exists is moved.
    ///
    /// # Errors
    /// `InvalidInput` for a name that [`check_alias`] refuses, `NotFound` if a prune has deleted the snapshot, `Busy`
    /// if a prune holds its lock for more than 10 s, `Io` if the alias cannot be written.
    pub fn set_alias(&self, snapshot: &Snapshot, alias: &str) -> Result<()> {
        names::set_alias(&self.parts, snapshot, alias)
    }

    /// Deletes a user alias. `false` if there was none.
    ///
    /// # Errors
    /// `Io` if it cannot be deleted.
    pub fn remove_alias(&self, series: &str, alias: &str) -> Result<bool> {
        self.parts.aliases.remove(series, alias)
    }

    /// Reads the footers of new packs, and forgets packs that are gone. Returns what is known then. A damaged pack is
    /// left out.
    ///
    /// # Errors
    /// `Io` if the folder or a pack cannot be read.
    pub fn refresh(&self) -> Result<Arc<Placement>> {
        self.parts.packs.refresh()
    }

    /// A reader of a snapshot. It opens even if some chunks are lost; what does not need them can be read.
    ///
    /// # Errors
    /// `NotFound` if the snapshot is gone, `Corrupt` if its structure or its content tree is damaged or lost.
    pub fn reader(&self, snapshot: &Snapshot) -> Result<Reader> {
        serving::reader(&self.parts, snapshot)
    }

    /// The packs that a reader of this snapshot needs, sorted by name, each with its length in bytes.
    ///
    /// # Errors
    /// `NotFound` if the snapshot is gone, `Corrupt` if a chunk of it is lost.
    pub fn packs_of(&self, snapshot: &Snapshot) -> Result<Vec<(PackName, u64)>> {
        serving::packs_of(&self.parts, snapshot)
    }

    /// The bytes of `lamina.placement` for a snapshot (docs/format.md §6.4).
    ///
    /// # Errors
    /// Those of [`Repository::packs_of`].
    pub fn placement_bytes(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        serving::placement_bytes(&self.parts, snapshot)
    }

    /// Saves a state and commits a snapshot of it. `body` has the fields that the caller knows; the state, the session
    /// and the numbers of bytes are filled in here. Chunks that the repository has are not stored again.
    ///
    /// # Errors
    /// `InvalidInput` if `body` names no series, if the source changed while it was read, or if a limit of
    /// docs/format.md §10 is exceeded. `Io` if something cannot be read or written, or the error of an interrupt of
    /// `task`. No snapshot is committed then.
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

    /// Imports the snapshot of an artifact directory (docs/format.md §8): its packs keep their names, and its file is
    /// copied byte for byte under the next number. If `series` differs from the series in the file, the file is
    /// rewritten with that series and gets another id.
    ///
    /// # Errors
    /// `NotFound` if the folder has no `lamina.json`, `Corrupt` if anything that is needed from it is damaged,
    /// `InvalidInput` if no series is named, `Io` if something cannot be read or written. No snapshot is committed
    /// then.
    pub fn import(&self, folder: &Path, series: Option<&str>, task: &Task<'_>) -> Result<Imported> {
        import::import(&self.parts, folder, series, task)
    }

    /// Deletes the snapshots that `keep` does not keep, in `series` or in every series, then the packs that are not
    /// needed any more. Without `keep` it deletes only such packs. An interrupted prune can be started again. With
    /// `dry_run` nothing is deleted.
    ///
    /// # Errors
    /// `Busy` if another prune is running, `Unsupported` if file locks do not work there, `InvalidInput` if `keep` is
    /// empty, `NotFound` if there is no such series. `Corrupt` if a snapshot that stays is not complete; nothing is
    /// deleted then.
    pub fn prune(&self, keep: Option<&Keep>, series: Option<&str>, dry_run: bool, task: &Task<'_>) -> Result<Pruned> {
        prune::prune(&self.parts, keep, series, dry_run, task)
    }

    /// Deletes one snapshot, then packs that nothing needs any more.
    ///
    /// # Errors
    /// `InvalidInput` if an alias names it, or its upload is under way.
    pub fn forget(&self, number: u64, dry_run: bool, task: &Task<'_>) -> Result<Pruned> {
        prune::forget(&self.parts, number, dry_run, task)
    }

    /// Verifies all files except the contents of packs; with `full` also every byte of every pack. Nothing is changed.
    ///
    /// # Errors
    /// `Io` if something cannot be read, or the error of an interrupt of `task`. Damage is not an error: it is in the
    /// report.
    pub fn verify(&self, full: bool, task: &Task<'_>) -> Result<Report> {
        verify::verify(&self.parts, full, task)
    }

    /// Like [`Repository::verify`] without `full`, and verifies a sample of the stored chunks: `share` is the expected
    /// part, 0 to 1, and `seed` decides which chunks.
    ///
    /// # Errors
    /// `InvalidInput` if `share` is not between 0 and 1, else those of [`Repository::verify`].
    pub fn verify_sample(&self, share: f64, seed: u64, task: &Task<'_>) -> Result<Report> {
        verify_sample::verify_sample(&self.parts, share, seed, task)
    }

    /// Reads every byte of the packs `names`, or of all packs, and returns the names of those that are damaged.
    ///
    /// # Errors
    /// `Io` if a pack cannot be read, or the error of an interrupt of `task`.
    pub fn damaged_packs(&self, names: Option<Vec<PackName>>, task: &Task<'_>) -> Result<Vec<PackName>> {
        repair::damaged_packs(&self.parts, names, task)
    }

    /// Repairs the damaged packs among `suspects`, and all other damaged files, with what `sources` hold. `sources` are
    /// folders of repositories or artifact directories. A damaged file that no source has is moved to the folder
    /// `quarantine`.
    ///
    /// # Errors
    /// `Busy` if a prune is running, `Unsupported` if file locks do not work there; nothing was changed then. `Io` if
    /// something cannot be read or written, or the error of an interrupt of `task`; the repair can then be started
    /// again.
    pub fn repair(&self, suspects: Vec<PackName>, sources: &[PathBuf], task: &Task<'_>) -> Result<Repaired> {
        repair::repair(&self.parts, suspects, sources, task)
    }
}
