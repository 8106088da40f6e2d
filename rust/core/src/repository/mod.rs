//! A repository: packs, snapshots, aliases, and the rules by which they change (docs/format.md §§3, 8, 9).

pub mod import;
pub mod lost;
pub mod repair;
pub mod retention;
pub mod session;
pub mod verify;
pub mod verify_sample;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::chunks::closure::{Closure, Nodes, closure};
use crate::chunks::placement::{Pack, Placement};
use crate::chunks::read::PackFiles;
use crate::codec::CodecChoice;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{Digest, PackName};
use crate::format::limits::MAX_JSON;
use crate::format::snapshot::{Body, Snapshot};
use crate::format::{envelope, pack};
use crate::layout::pieces::Layout;
use crate::layout::source::StateSource;
use crate::repository::retention::{Keep, ranking};
use crate::repository::session::{PruneLock, Session};
use crate::restore::reader::{self, Reader};
use crate::save::bases::Bases;
use crate::save::writer::{Options, Writer};
use crate::storage;
use crate::storage::names::random_name;

/// An open repository. Safe to use from several threads; other processes may use the same folder at once.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
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

/// Snapshots by number, and the newest damaged one.
type Readable = (Vec<Arc<Snapshot>>, Option<(u64, Error)>);

/// A save, or an import, that has begun.
pub(crate) struct Saving {
    pub(crate) session: Session,
    /// Packs that nothing may be built on.
    pub(crate) condemned: HashSet<PackName>,
}

/// How a save is done.
pub struct SaveOptions<'a> {
    /// Codec for new chunks.
    pub codec: CodecChoice,
    /// Threads; 0: the default.
    pub threads: usize,
    /// Asked again and again; its error ends the save.
    pub interrupt: &'a (dyn Fn() -> Result<()> + Sync),
}

impl std::fmt::Debug for SaveOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaveOptions").field("codec", &self.codec).finish_non_exhaustive()
    }
}

/// What prune did, or would do.
#[derive(Debug, Default, Clone)]
pub struct Pruned {
    /// Numbers of the snapshots that were deleted.
    pub snapshots: Vec<u64>,
    /// Packs that were deleted, and their bytes.
    pub packs: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Packs that wait until the saves that are under way have ended.
    pub waiting: usize,
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
        let path = root.join("config.json");
        let bytes = storage::read_small(&path, MAX_JSON).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::not_found(format!("{} is not a lamina repository: it has no config.json", root.display()))
            }
            _ => e,
        })?;
        let (_, body) = envelope::unseal(&bytes, "config", &path.display().to_string())?;
        Ok(Self::at(root, body.get("id").and_then(Value::as_str).unwrap_or_default()))
    }

    /// The repository in this folder, whatever its config says.
    pub(crate) fn at(root: &Path, id: &str) -> Self {
        Self {
            root: root.to_owned(),
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
        for folder in ["packs", "snapshots", "sessions"] {
            storage::create_dir(&root.join(folder))?;
        }
        let session = Session::begin(root)?;
        let ignore = root.join(".gitignore");
        if !storage::exists(&ignore)? {
            storage::write_atomic(&session.temp("gitignore"), &ignore, b"*\n")?;
        }
        // Another process may do the same now; the one who renames last wins, and both open what then stands there.
        let config = root.join("config.json");
        if !storage::exists(&config)? {
            storage::write_atomic(&session.temp("config"), &config, &Self::new_config(created_at)?)?;
        }
        Self::open(root)
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its random id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn packs_dir(&self) -> PathBuf {
        self.root.join("packs")
    }

    /// Forgets what has been read: the next look is at the files.
    pub(crate) fn forget(&self) {
        *lock(&self.placement) = Known::default();
        lock(&self.snapshots).clear();
    }

    /// Flushes the names that everything else stands under; who made them may have been killed before it did. Once is enough.
    fn settle(&self) -> Result<()> {
        if !self.settled.load(Ordering::Acquire) {
            storage::sync_dir(&storage::parent(&self.root))?;
            storage::sync_dir(&self.root)?;
            self.settled.store(true, Ordering::Release);
        }
        Ok(())
    }

    // ---- placement ----------------------------------------------------------------------------------------------

    /// Reads the footers of packs that have come, forgets packs that have gone.
    pub fn refresh(&self) -> Result<Arc<Placement>> {
        let folder = self.packs_dir();
        let names: HashSet<PackName> =
            storage::list(&folder)?.iter().filter_map(|n| PackName::from_hex(n.strip_suffix(".pack")?)).collect();
        let mut known = lock(&self.placement);
        let gone: Vec<_> = known.placement.packs().map(|p| p.name).filter(|n| !names.contains(n)).collect();
        let come: Vec<_> = names
            .iter()
            .copied()
            .filter(|n| known.placement.pack(n).is_none() && !known.damaged.contains_key(n))
            .collect();
        known.damaged.retain(|n, _| names.contains(n));
        if gone.is_empty() && come.is_empty() {
            return Ok(Arc::clone(&known.placement));
        }
        let mut read = vec![];
        for name in come {
            let path = folder.join(format!("{}.pack", name.hex()));
            match storage::open(&path).and_then(|file| pack::read_footer(&file, &path)) {
                Ok((length, entries, salt)) => read.push(Pack { name, length, entries, salt }),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                Err(e) => {
                    known.damaged.insert(name, e);
                }
            }
        }
        let placement = Arc::make_mut(&mut known.placement);
        gone.iter().for_each(|name| placement.remove(name));
        read.into_iter().for_each(|pack| placement.insert(pack));
        Ok(Arc::clone(&known.placement))
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

    // ---- snapshots ----------------------------------------------------------------------------------------------

    fn numbers(&self) -> Result<(BTreeSet<u64>, u64)> {
        let (mut numbers, mut highest) = (BTreeSet::new(), 0);
        for name in storage::list(&self.root.join("snapshots"))? {
            let Some((digits, ending)) = name.split_once('.') else { continue };
            let Some(number) = parse_number(digits) else { continue };
            if ending == "json" {
                numbers.insert(number);
            }
            if ending == "json" || ending == "claim" {
                highest = highest.max(number);
            }
        }
        Ok((numbers, highest))
    }

    pub(crate) fn snapshot_path(&self, number: u64) -> PathBuf {
        self.root.join("snapshots").join(format!("{number:010}.json"))
    }

    fn claim_path(&self, number: u64) -> PathBuf {
        self.root.join("snapshots").join(format!("{number:010}.claim"))
    }

    fn load(&self, number: u64) -> Result<Arc<Snapshot>> {
        if let Some(snapshot) = lock(&self.snapshots).get(&number) {
            return Ok(Arc::clone(snapshot));
        }
        let path = self.snapshot_path(number);
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
    fn readable(&self) -> Result<Readable> {
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
        storage::read_small(&self.snapshot_path(number), MAX_JSON)
    }

    /// The snapshot that a user means: a user alias, `latest`, `best`, `epoch_N`, `epoch_N_batch_B`, a number, or the first 6 or more digits of an id.
    pub fn resolve(&self, series: Option<&str>, reference: &str) -> Result<Arc<Snapshot>> {
        let (all, damaged) = self.readable()?;
        if let Some((number, damage)) = damaged {
            // A damaged one may be what is meant, unless a number, an id, or a newer one is.
            let newest = all.last().map_or(0, |s| s.number);
            let inside: Vec<&Snapshot> = all.iter().map(|s| &**s).collect();
            if by_id(reference, &inside).is_none() && (reference != "latest" || newest < number) {
                return Err(damage);
            }
        }
        let names: BTreeSet<&str> = all.iter().map(|s| s.body.series.as_str()).collect();
        if let Some(wanted) = series
            && !names.contains(wanted)
        {
            return Err(Error::not_found(format!(
                "{} has no series {wanted:?}; it has {names:?}",
                self.root.display()
            )));
        }
        let inside: Vec<&Snapshot> =
            all.iter().map(|s| &**s).filter(|s| series.is_none_or(|n| s.body.series == n)).collect();
        if inside.is_empty() {
            return Err(Error::not_found(format!("{} holds no snapshot yet", self.root.display())));
        }
        let found = match series.or(if names.len() == 1 { names.first().copied() } else { None }) {
            Some(one) => self.named(one, reference, &inside)?.or_else(|| by_id(reference, &inside)),
            None => match by_id(reference, &inside) {
                Some(number) => Some(number),
                None => {
                    return Err(Error::invalid(format!(
                        "{} holds several series; say which: DIR@SERIES:{reference} with one of {names:?}",
                        self.root.display()
                    )));
                }
            },
        };
        let number = found.ok_or_else(|| {
            Error::not_found(format!(
                "no snapshot {reference:?} in {}; expected an alias, latest, best, epoch_N, a number or an id",
                self.root.display()
            ))
        })?;
        all.iter()
            .find(|s| s.number == number)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("snapshot {number} is gone")))
    }

    fn named(&self, series: &str, reference: &str, inside: &[&Snapshot]) -> Result<Option<u64>> {
        if let Some((_, id)) = self.read_alias(&self.alias_path(series, reference))? {
            let target = inside.iter().find(|s| s.id == id);
            return target
                .map(|s| Some(s.number))
                .ok_or_else(|| Error::not_found(format!("alias {reference:?} names snapshot {id}, which is gone")));
        }
        let newest = |test: &dyn Fn(&Snapshot) -> bool| inside.iter().filter(|s| test(s)).map(|s| s.number).max();
        Ok(match reference {
            "latest" => newest(&|_| true),
            "best" => best(inside),
            _ => reference.strip_prefix("epoch_").and_then(|rest| {
                let (epoch, batch) = rest.split_once("_batch_").map_or((rest, None), |(e, b)| (e, Some(b)));
                let epoch: i64 = epoch.parse().ok()?;
                let batch: Option<i64> = match batch {
                    Some(b) => Some(b.parse().ok()?),
                    None => None,
                };
                newest(&|s| s.body.epoch == Some(epoch) && s.body.batch == batch)
            }),
        })
    }

    /// Number → the aliases of each snapshot: computed ones first, then the user's.
    pub fn aliases(&self) -> Result<HashMap<u64, Vec<String>>> {
        let all = self.snapshots()?;
        let mut out: HashMap<u64, Vec<String>> = HashMap::new();
        let mut series: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
        for s in &all {
            series.entry(&s.body.series).or_default().push(s);
        }
        for inside in series.values() {
            let computed = [("latest", inside.iter().map(|s| s.number).max()), ("best", best(inside))];
            for (name, number) in computed {
                out.entry(number.unwrap_or(0)).or_default().extend(number.map(|_| name.to_owned()));
            }
            let mut epochs: BTreeMap<String, u64> = BTreeMap::new();
            for s in inside {
                if let Some(epoch) = s.body.epoch {
                    let batch = s.body.batch.map_or(String::new(), |b| format!("_batch_{b}"));
                    let newest = epochs.entry(format!("epoch_{epoch}{batch}")).or_default();
                    *newest = s.number.max(*newest);
                }
            }
            for (name, number) in epochs {
                out.entry(number).or_default().push(name);
            }
        }
        for (alias, id) in self.user_aliases()? {
            if let Some(s) = all.iter().find(|s| s.id == id) {
                out.entry(s.number).or_default().push(alias);
            }
        }
        Ok(out)
    }

    // ---- user aliases -------------------------------------------------------------------------------------------

    fn alias_path(&self, series: &str, alias: &str) -> PathBuf {
        let key = [series.as_bytes(), b"\0", alias.as_bytes()].concat();
        self.root.join("aliases").join(format!("{}.json", &Digest::of(&key).hex()[..32]))
    }

    fn read_alias(&self, path: &Path) -> Result<Option<(String, String)>> {
        let Some(bytes) = storage::read_small_if_any(path, MAX_JSON)? else { return Ok(None) };
        let what = path.display().to_string();
        let (_, body) = envelope::unseal(&bytes, "alias", &what)?;
        let field = |name: &str| {
            let value = body.get(name).and_then(Value::as_str).map(str::to_owned);
            value.ok_or_else(|| Error::corrupt(format!("{what} is damaged: it has no {name:?}")))
        };
        let (series, alias, snapshot) = (field("series")?, field("alias")?, field("snapshot")?);
        if self.alias_path(&series, &alias).file_name() != path.file_name() {
            return Err(Error::corrupt(format!(
                "{what} is damaged: it holds the alias {alias:?} of {series:?}, its name is that of another"
            )));
        }
        Ok(Some((alias, snapshot)))
    }

    fn user_aliases(&self) -> Result<Vec<(String, String)>> {
        let folder = self.root.join("aliases");
        let mut aliases = vec![];
        for name in storage::list(&folder)?.iter().filter(|n| n.ends_with(".json") && !n.starts_with('.')) {
            aliases.extend(self.read_alias(&folder.join(name))?);
        }
        aliases.sort();
        Ok(aliases)
    }

    /// Flushes the names of the snapshots that are seen: their saver may have been killed before it did.
    pub(crate) fn flush_names(&self) -> Result<()> {
        self.settle()?;
        storage::sync_dir(&self.root.join("snapshots"))
    }

    /// Lets a user alias name a snapshot of its series; it moves if it exists.
    pub fn set_alias(&self, snapshot: &Snapshot, alias: &str) -> Result<()> {
        check_alias(alias)?;
        let folder = self.root.join("aliases");
        storage::create_dir(&folder)?;
        let fields = [("series", snapshot.body.series.as_str()), ("alias", alias), ("snapshot", snapshot.id.as_str())];
        let bytes = envelope::seal("alias", &envelope::body(fields.map(|(k, v)| (k, v.into()))))?;
        self.flush_names()?;
        // A prune either sees the alias or is over: else it would delete what the alias has just come to name.
        let _lock = PruneLock::share(&self.root)?;
        if !storage::exists(&self.snapshot_path(snapshot.number))? {
            return Err(Error::not_found(format!("snapshot {} is gone: a prune has deleted it", snapshot.number)));
        }
        let session = Session::begin(&self.root)?;
        storage::write_atomic(&session.temp("alias"), &self.alias_path(&snapshot.body.series, alias), &bytes)
    }

    /// Deletes a user alias; `false` if there was none.
    pub fn remove_alias(&self, series: &str, alias: &str) -> Result<bool> {
        let path = self.alias_path(series, alias);
        let there = storage::exists(&path)?;
        storage::remove_file(&path)?;
        self.sync_aliases()?;
        Ok(there)
    }

    fn sync_aliases(&self) -> Result<()> {
        storage::sync_dir_if_any(&self.root.join("aliases"))
    }

    // ---- save ---------------------------------------------------------------------------------------------------

    /// Saves a state and commits a snapshot of it with the fields of `body`; its state, session and figures are filled in here.
    pub fn save(
        &self,
        mut body: Body,
        layout: &Layout,
        source: &dyn StateSource,
        options: &SaveOptions<'_>,
    ) -> Result<Arc<Snapshot>> {
        if body.series.is_empty() {
            return Err(Error::invalid("a snapshot needs the name of its series"));
        }
        let Saving { session, condemned } = self.begin_save()?;
        let known = self.refresh()?;
        let threads = crate::task::pipeline::threads_or_default(options.threads)?;
        let newest = self.newest(&body.series);
        // What the newest save found new; the whole state for a first one.
        let expected_new = newest.as_ref().map_or(layout.length, |s| s.body.bytes_new.min(layout.length));
        let settings = Options { codec: options.codec, threads, expected_new };
        let bases = newest.filter(|_| options.codec.delta_share().is_some()).and_then(|newest| {
            // Damage of an earlier version must not keep this one from being saved.
            Bases::find(&known, PackFiles::new(self.packs_dir()), &newest, layout, &condemned).ok()
        });
        let writer = Writer::new(layout, source, &known, &condemned, bases.as_ref(), settings, options.interrupt);
        let written = writer.write(session.folder(), &self.packs_dir())?;
        drop(bases);
        drop(known);
        if written.deltas {
            body.required.push("delta".into());
        }
        body.session = session.name().to_owned();
        body.bytes_total = layout.length;
        body.bytes_new = written.bytes_new;
        body.bytes_stored = written.bytes_stored;
        body.state = written.state;
        let snapshot = self.commit(&body, &session)?;
        let mut known = lock(&self.placement);
        let placement = Arc::make_mut(&mut known.placement);
        written.packs.into_iter().for_each(|pack| placement.insert(pack));
        Ok(snapshot)
    }

    /// Begins what ends in a commit: from now on no pack goes that is not condemned already.
    pub(crate) fn begin_save(&self) -> Result<Saving> {
        let session = Session::begin(&self.root)?;
        if session.locks_work() {
            session::sweep(&self.root)?;
        }
        self.settle()?;
        storage::create_dir(&self.packs_dir())?;
        let condemned = self.condemned_for_save()?;
        let known = self.refresh()?;
        let condemned = condemned.unwrap_or_else(|| known.packs().map(|p| p.name).collect());
        Ok(Saving { session, condemned })
    }

    /// The newest snapshot of a series that can be read.
    fn newest(&self, series: &str) -> Option<Arc<Snapshot>> {
        let (numbers, _) = self.numbers().unwrap_or_default();
        numbers.iter().rev().filter_map(|&n| self.load(n).ok()).find(|s| s.body.series == series)
    }

    fn commit(&self, body: &Body, session: &Session) -> Result<Arc<Snapshot>> {
        self.commit_bytes(&body.seal()?, session)
    }

    /// Gives a snapshot file its number.
    pub(crate) fn commit_bytes(&self, bytes: &[u8], session: &Session) -> Result<Arc<Snapshot>> {
        let folder = self.root.join("snapshots");
        storage::create_dir(&folder)?;
        let temp = session.temp("snapshot");
        storage::write_synced(&temp, bytes)?;
        let number = self.claim_number()?;
        let path = self.snapshot_path(number);
        storage::rename(&temp, &path)?;
        storage::sync_dir(&folder)?;
        // The snapshot is committed; a claim that stays does no harm.
        let _ = storage::remove_file(&self.claim_path(number));
        let snapshot = Arc::new(Snapshot::parse(bytes, number, &path.display().to_string())?);
        lock(&self.snapshots).insert(number, Arc::clone(&snapshot));
        Ok(snapshot)
    }

    fn claim_number(&self) -> Result<u64> {
        loop {
            let number = self.numbers()?.1 + 1;
            if number > LAST_NUMBER {
                return Err(Error::corrupt(format!(
                    "{} holds a file with the number {LAST_NUMBER}, behind which there is none for a new snapshot",
                    self.root.join("snapshots").display()
                )));
            }
            if !storage::claim(&self.claim_path(number))? {
                continue;
            }
            if !storage::exists(&self.snapshot_path(number))? {
                return Ok(number);
            }
            storage::remove_file(&self.claim_path(number))?;
        }
    }

    // ---- read ---------------------------------------------------------------------------------------------------

    /// A reader of one snapshot.
    pub fn reader(&self, snapshot: &Snapshot) -> Result<Reader> {
        let placement = self.refresh()?;
        let (path, number) = (self.snapshot_path(snapshot.number), snapshot.number);
        match Reader::open_partly(placement, PackFiles::new(self.packs_dir()), snapshot) {
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
        let placement = self.refresh()?;
        let reader = Reader::open(Arc::clone(&placement), PackFiles::new(self.packs_dir()), snapshot);
        let told = |e| reader::told(self.explain(e), &self.snapshot_path(snapshot.number), snapshot.number);
        Ok((placement, reader.map_err(told)?.packs()))
    }

    // ---- prune --------------------------------------------------------------------------------------------------

    /// Deletes the snapshots that `keep` does not hold (of `series`, or of each), then packs that nothing needs any more.
    /// Without `keep` only the latter.
    pub fn prune(&self, keep: Option<&Keep>, series: Option<&str>, dry_run: bool) -> Result<Pruned> {
        if let Some(keep) = keep {
            keep.check()?;
        }
        let _lock = PruneLock::take(&self.root)?;
        if !dry_run {
            storage::remove_file(&self.condemned_temp())?;
            // What is seen and was not flushed, because its writer was killed, must not come or go once things are deleted.
            self.settle()?;
            self.sync_aliases()?;
        }
        let all = self.snapshots()?;
        let doomed = match keep {
            Some(keep) => self.doomed(keep, series, &all)?,
            None => BTreeSet::new(),
        };
        self.refuse_lost(&all)?;
        let stay: Vec<_> = all.iter().filter(|s| !doomed.contains(&s.number)).cloned().collect();
        // Before anything is deleted: whatever stays must be complete, else prune would hide what was lost.
        let needed = self.needed(&stay)?;
        let mut pruned = Pruned { snapshots: doomed.iter().copied().collect(), ..Pruned::default() };
        if dry_run {
            let known = self.refresh()?;
            let dead = known.packs().filter(|p| !needed.contains(&p.name));
            dead.for_each(|p| {
                pruned.packs += 1;
                pruned.bytes += p.length;
            });
            return Ok(pruned);
        }
        session::sweep(&self.root)?;
        self.delete_snapshots(&doomed)?;
        self.delete_packs(&needed, &mut pruned)?;
        Ok(pruned)
    }

    /// Refuses where the file of a snapshot that an alias holds is lost: its packs, from which it can be brought back with a
    /// copy of that file, would be deleted.
    fn refuse_lost(&self, all: &[Arc<Snapshot>]) -> Result<()> {
        let lost = self.user_aliases()?.into_iter().find(|(_, id)| all.iter().all(|s| s.id != *id));
        lost.map_or(Ok(()), |(alias, id)| {
            Err(Error::corrupt(format!(
                "alias {alias:?} names snapshot {id}, whose file is lost; nothing was deleted. Repair the repository from \
                 a copy first, or remove the alias to give up what it held"
            )))
        })
    }

    fn doomed(&self, keep: &Keep, series: Option<&str>, all: &[Arc<Snapshot>]) -> Result<BTreeSet<u64>> {
        let mut held_ids: HashSet<String> = self.user_aliases()?.into_iter().map(|a| a.1).collect();
        held_ids.extend(self.journal()?.0);
        let mut groups: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
        for s in all.iter().filter(|s| series.is_none_or(|n| n == s.body.series)) {
            groups.entry(&s.body.series).or_default().push(s);
        }
        if let Some(name) = series
            && groups.is_empty()
        {
            return Err(Error::not_found(format!("{} has no series {name:?}", self.root.display())));
        }
        let mut doomed = BTreeSet::new();
        for inside in groups.values() {
            let held = keep.held(inside);
            doomed.extend(
                inside.iter().filter(|s| !held.contains(&s.number) && !held_ids.contains(&s.id)).map(|s| s.number),
            );
        }
        Ok(doomed)
    }

    fn delete_snapshots(&self, doomed: &BTreeSet<u64>) -> Result<()> {
        let folder = self.root.join("snapshots");
        // Also where nothing is doomed: a prune that was killed may have deleted snapshots whose packs are deleted now.
        storage::sync_dir(&folder)?;
        if doomed.is_empty() {
            return Ok(());
        }
        let (_, highest) = self.numbers()?;
        if doomed.contains(&highest) {
            storage::claim(&self.claim_path(highest))?;
            storage::sync_dir(&folder)?;
        }
        for &number in doomed {
            storage::remove_file(&self.snapshot_path(number))?;
            lock(&self.snapshots).remove(&number);
        }
        for name in storage::list(&folder)? {
            // A claim below the highest number guards nothing any more: its number is never drawn again.
            if name.strip_suffix(".claim").and_then(parse_number).is_some_and(|n| n < highest) {
                storage::remove_file(&folder.join(name))?;
            }
        }
        storage::sync_dir(&folder)
    }

    /// The packs that snapshots or uploads under way need.
    fn needed(&self, snapshots: &[Arc<Snapshot>]) -> Result<HashSet<PackName>> {
        let placement = self.refresh()?;
        let files = PackFiles::new(self.packs_dir());
        let mut nodes = Nodes::new();
        let mut needed = self.journal()?.1;
        for snapshot in snapshots {
            let ids = closure(&placement, &files, &snapshot.body.state, &mut nodes).map(Closure::ids);
            let serving = ids.and_then(|ids| placement.serve(&ids));
            let serving = serving.map_err(|e| {
                self.explain(e).context(format!("snapshot {} is not complete, nothing was deleted", snapshot.number))
            })?;
            needed.extend(serving.live.into_keys());
        }
        Ok(needed)
    }

    /// Snapshot ids and packs that uploads under way need.
    fn journal(&self) -> Result<(HashSet<String>, HashSet<PackName>)> {
        let folder = self.root.join("journal");
        let (mut ids, mut packs) = (HashSet::new(), HashSet::new());
        for name in storage::list(&folder)?.iter().filter(|n| n.ends_with(".json") && !n.starts_with('.')) {
            let path = folder.join(name);
            let Some(bytes) = storage::read_small_if_any(&path, MAX_JSON)? else { continue };
            let (_, body) = envelope::unseal(&bytes, "journal", &path.display().to_string())?;
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

    fn delete_packs(&self, needed: &HashSet<PackName>, pruned: &mut Pruned) -> Result<()> {
        let known = self.refresh()?;
        let mut condemned = self.read_condemned().ok().flatten().unwrap_or_default();
        condemned.retain(|name, _| known.pack(name).is_some());
        for pack in known.packs().filter(|p| !needed.contains(&p.name)) {
            condemned.entry(pack.name).or_insert(None);
        }
        if condemned.is_empty() {
            return storage::remove_file(&self.condemned_path());
        }
        self.write_condemned(&condemned)?;
        // Only now: a save that could have missed the list is alive now, or has ended.
        let alive = session::alive(&self.root)?;
        for sessions in condemned.values_mut() {
            sessions.get_or_insert_with(|| alive.clone());
        }
        self.write_condemned(&condemned)?;
        let due: Vec<_> = condemned
            .iter()
            .filter(|(_, s)| !s.iter().flatten().any(|n| session::is_alive(&self.root, n)))
            .map(|(n, _)| *n)
            .collect();
        // These sessions have ended, so what they committed can be seen now.
        let needed = self.needed(&self.snapshots()?)?;
        for name in due {
            if !needed.contains(&name) {
                pruned.packs += 1;
                pruned.bytes += known.pack(&name).map_or(0, |p| p.length);
                storage::remove_file(&self.packs_dir().join(format!("{}.pack", name.hex())))?;
            }
            condemned.remove(&name);
        }
        pruned.waiting = condemned.len();
        storage::sync_dir(&self.packs_dir())?;
        if condemned.is_empty() {
            storage::remove_file(&self.condemned_path())
        } else {
            self.write_condemned(&condemned)
        }
    }

    fn condemned_path(&self) -> PathBuf {
        self.root.join("condemned.json")
    }

    /// Only the holder of the prune lock writes it.
    fn condemned_temp(&self) -> PathBuf {
        self.root.join(".condemned.tmp")
    }

    fn read_condemned(&self) -> Result<Option<BTreeMap<PackName, Option<Vec<String>>>>> {
        let path = self.condemned_path();
        let Some(bytes) = storage::read_small_if_any(&path, MAX_JSON)? else { return Ok(None) };
        let what = path.display().to_string();
        let (_, body) = envelope::unseal(&bytes, "condemned", &what)?;
        let damaged = || Error::corrupt(format!("{what} is damaged"));
        let packs: BTreeMap<String, Option<Vec<String>>> =
            serde_json::from_value(body.get("packs").cloned().ok_or_else(damaged)?).map_err(|_| damaged())?;
        packs
            .into_iter()
            .map(|(name, s)| Ok((PackName::from_hex(&name).ok_or_else(damaged)?, s)))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// The condemned packs; `None` if the list cannot be read: then no pack may be deduplicated against.
    pub(crate) fn condemned_for_save(&self) -> Result<Option<HashSet<PackName>>> {
        match self.read_condemned() {
            Ok(list) => Ok(Some(list.unwrap_or_default().into_keys().collect())),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn write_condemned(&self, condemned: &BTreeMap<PackName, Option<Vec<String>>>) -> Result<()> {
        let packs: Map<String, Value> = condemned.iter().map(|(n, s)| (n.hex(), Value::from(s.clone()))).collect();
        storage::write_atomic(
            &self.condemned_temp(),
            &self.condemned_path(),
            &envelope::seal("condemned", &envelope::body([("packs", packs.into())]))?,
        )
    }
}

/// The best of a series: the best value among the snapshots that were the best when they were saved.
fn best(inside: &[&Snapshot]) -> Option<u64> {
    let flagged: Vec<&Snapshot> = inside.iter().copied().filter(|s| s.body.best).collect();
    ranking(&flagged).first().map(|s| s.number).or_else(|| flagged.iter().map(|s| s.number).max())
}

fn by_id(reference: &str, inside: &[&Snapshot]) -> Option<u64> {
    if let Ok(number) = reference.parse::<u64>()
        && reference.len() <= 10
        && inside.iter().any(|s| s.number == number)
    {
        return Some(number);
    }
    let mut matching = inside.iter().filter(|s| reference.len() >= 6 && s.id.starts_with(reference));
    let first = matching.next()?;
    // Two imports at once may have brought the same one twice.
    matching.all(|s| s.id == first.id).then_some(first.number)
}

/// Numbers have ten digits.
const LAST_NUMBER: u64 = 9_999_999_999;

fn parse_number(digits: &str) -> Option<u64> {
    (digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Refuses a name that no user alias may have.
pub fn check_alias(alias: &str) -> Result<()> {
    if alias.is_empty() || alias.len() > 128 || alias.chars().any(|c| matches!(c, '/' | ':' | '@') || c.is_control()) {
        return Err(Error::invalid(format!(
            "an alias has 1 to 128 bytes and none of '/', ':', '@'. Received: {alias:?}"
        )));
    }
    if alias == "latest" {
        return Err(Error::invalid("the alias \"latest\" is computed: it is always the newest snapshot of a series"));
    }
    Ok(())
}
