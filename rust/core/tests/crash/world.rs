//! A repository under test: the operations on it, what it has promised, and the check that it keeps its promises.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use lamina_core::internals::session;
use lamina_core::{
    Body, CodecChoice, ErrorKind, FileSpec, Keep, Layout, MemorySource, Repository, Result, Snapshot, Task, TensorSpec,
    Want,
};
use tempfile::TempDir;

use crate::chance::Chance;
use crate::disk::{Change, Disk, Fate, Tree, plant};
use crate::watch::{Recorder, Refusal, quiet};

/// One thread, so that every run makes the same calls.
pub(crate) fn task() -> Task<'static> {
    Task::new(1).unwrap()
}
pub(crate) const TENSORS: usize = 5;
pub(crate) const SERIES: &str = "s";

/// A folder for a test, in memory if possible.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Five small tensors, each a chunk of its own. The version number of each decides its content.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model(pub [u64; TENSORS]);

impl Model {
    fn tensor(&self, index: usize) -> Vec<u8> {
        let mut chance = Chance::new(self.0[index] * 31 + index as u64);
        (0..60 + 8 * index).flat_map(|_| (chance.next() as u32).to_le_bytes()).collect()
    }

    fn tensors(&self) -> Vec<Vec<u8>> {
        (0..TENSORS).map(|i| self.tensor(i)).collect()
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        self.tensors().iter().flat_map(|t| [&[7u8], t.as_slice()].concat()).collect()
    }

    pub(crate) fn save(&self, repository: &Repository, epoch: i64) -> Result<Arc<Snapshot>> {
        let tensors = self.tensors();
        let mut at = 0;
        let spec = |(i, bytes): (usize, &Vec<u8>)| {
            at += 1 + bytes.len() as u64;
            TensorSpec {
                name: format!("l{i}/w"),
                dtype: "<f4".into(),
                shape: vec![bytes.len() as u64 / 4],
                role: "weights".into(),
                offset: at - bytes.len() as u64,
            }
        };
        let specs = tensors.iter().enumerate().map(spec).collect();
        let layout = Layout::new(&[FileSpec { path: "m.h5".into(), size: at, tensors: specs }], &[])?;
        let literals = [7; TENSORS];
        let source = MemorySource {
            tensors: vec![tensors.iter().map(Vec::as_slice).collect(), vec![]],
            literals: vec![&literals],
        };
        let json = format!(r#"{{"created_at":"","series":"{SERIES}","kind":"weights","epoch":{epoch}}}"#);
        let body: Body = serde_json::from_str(&json).unwrap();
        repository.save(body, &layout, &source, CodecChoice::Auto, &task())
    }
}

/// What was reported to a user, who may rely on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promise {
    repository: bool,
    /// Snapshot id → number.
    snapshots: BTreeMap<String, u64>,
    /// Alias → the snapshots that it may name: several while it is moved.
    aliases: BTreeMap<String, Vec<Option<String>>>,
    highest: u64,
}

impl Promise {
    /// What processes reported that ran at the same time: snapshots, and the numbers that a prune deleted or wanted to
    /// delete.
    pub(crate) fn report(&mut self, saved: &[(String, u64)], pruned: &[u64]) {
        self.snapshots.extend(saved.iter().cloned());
        self.snapshots.retain(|_, number| !pruned.contains(number));
        self.highest = saved.iter().map(|(_, number)| *number).fold(self.highest, u64::max);
    }

    /// Adds a snapshot that an alias may name now.
    pub(crate) fn alias(&mut self, alias: &str, named: &[Option<String>]) {
        self.aliases.entry(alias.into()).or_insert(vec![None]).extend(named.iter().cloned());
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create,
    Save(Model),
    SetAlias(&'static str),
    RemoveAlias(&'static str),
    Prune(usize),
    Verify,
    /// Of a snapshot that another repository made.
    Import(Model),
}

/// An operation in the record, between two numbers of changes.
struct Done {
    start: usize,
    end: usize,
    during: Promise,
    after: Promise,
}

pub(crate) struct World {
    root: TempDir,
    disk: Disk,
    recorder: Arc<Recorder>,
    _watch: lamina_core::internals::faults::Watch,
    before: Promise,
    done: Vec<Done>,
    pub(crate) promise: Promise,
    pub(crate) contents: HashMap<i64, Vec<u8>>,
}

impl World {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        let root = scratch();
        let disk = Disk::scan(root.path());
        Self::at(root, disk, Promise::default(), HashMap::new(), None)
    }

    fn at(
        root: TempDir,
        disk: Disk,
        promise: Promise,
        contents: HashMap<i64, Vec<u8>>,
        refusal: Option<Refusal>,
    ) -> Self {
        let (recorder, watch) = Recorder::watch(root.path(), refusal);
        Self { root, disk, recorder, _watch: watch, before: promise.clone(), done: vec![], promise, contents }
    }

    /// A copy of the world in another folder, with a new record. One call in it may fail.
    pub(crate) fn copy(&self, refusal: Option<Refusal>) -> Self {
        let mut disk = self.disk_at(self.recorder.len());
        let root = scratch();
        plant(&disk.after_crash(&mut Fate::Everything), root.path());
        disk.clock = 0;
        Self::at(root, disk, self.promise.clone(), self.contents.clone(), refusal)
    }

    /// A copy of the world in which everything is flushed.
    pub(crate) fn settled(&self) -> Self {
        let mut world = self.copy(None);
        world.disk = Disk::scan(world.root.path());
        world
    }

    /// The world after its process was killed, after `changes` changes. What is not flushed is visible, but may be
    /// lost.
    pub(crate) fn killed_at(&self, changes: usize) -> Self {
        let disk = self.disk_at(changes);
        let root = scratch();
        plant(&disk.after_crash(&mut Fate::Everything), root.path());
        Self::at(root, disk, self.promise_at(changes), self.contents.clone(), None)
    }

    /// Makes the current content of the folder the state from which the record starts.
    pub(crate) fn rescan(&mut self) {
        self.disk = Disk::scan(self.root.path());
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn changes(&self) -> usize {
        self.recorder.len()
    }

    pub(crate) fn calls(&self) -> usize {
        self.recorder.calls()
    }

    pub(crate) fn log(&self) -> Vec<Change> {
        self.recorder.changes()
    }

    fn newest(&self, repository: &Repository) -> Result<Option<Arc<Snapshot>>> {
        Ok(repository.snapshots()?.last().cloned())
    }

    /// Does an operation like a process of its own, and updates the promise by its result.
    pub(crate) fn run(&mut self, op: &Op) -> Result<()> {
        let start = self.changes();
        let (mut during, mut after) = (self.promise.clone(), self.promise.clone());
        let result = self.act(op, &mut during, &mut after);
        self.promise = if result.is_ok() { after } else { during.clone() };
        self.done.push(Done { start, end: self.changes(), during, after: self.promise.clone() });
        result
    }

    fn act(&mut self, op: &Op, during: &mut Promise, after: &mut Promise) -> Result<()> {
        if let Op::Create = op {
            let start = self.changes();
            Repository::open_or_create(self.root.path(), "")?;
            // To find a snapshot promises nothing.
            after.repository |= self.changes() > start;
            return Ok(());
        }
        let repository = Repository::open(self.root.path())?;
        match op {
            Op::Create => {}
            Op::Save(model) => {
                let epoch = self.contents.len() as i64;
                self.contents.insert(epoch, model.file());
                let snapshot = model.save(&repository, epoch)?;
                after.repository = true;
                after.highest = after.highest.max(snapshot.number);
                after.snapshots.insert(snapshot.id.clone(), snapshot.number);
            }
            Op::Import(model) => {
                let epoch = self.contents.len() as i64;
                self.contents.insert(epoch, model.file());
                let imported = repository.import(artifact(model, epoch).path(), None, &task())?;
                after.repository = true;
                after.highest = after.highest.max(imported.snapshot.number);
                after.snapshots.insert(imported.snapshot.id.clone(), imported.snapshot.number);
            }
            Op::SetAlias(alias) => {
                let Some(snapshot) = self.newest(&repository)? else { return Ok(()) };
                during.aliases.entry((*alias).into()).or_insert(vec![None]).push(Some(snapshot.id.clone()));
                repository.set_alias(&snapshot, alias)?;
                after.aliases.insert((*alias).into(), vec![Some(snapshot.id.clone())]);
                after.repository = true;
                // The snapshot that an alias names is visible, so it counts as reported.
                after.snapshots.insert(snapshot.id.clone(), snapshot.number);
            }
            Op::RemoveAlias(alias) => {
                during.aliases.entry((*alias).into()).or_insert(vec![None]).push(None);
                repository.remove_alias(SERIES, alias)?;
                after.aliases.insert((*alias).into(), vec![None]);
            }
            Op::Prune(last) => {
                let keep = Keep { last: Some(*last), ..Keep::default() };
                let doomed = repository.prune(Some(&keep), None, true, &task())?;
                during.snapshots.retain(|_, number| !doomed.snapshots.contains(number));
                let pruned = repository.prune(Some(&keep), None, false, &task())?;
                after.snapshots.retain(|_, number| !pruned.snapshots.contains(number));
            }
            Op::Verify => {
                let report = repository.verify(true, &task())?;
                assert!(report.problems.is_empty(), "{:?}", report.problems);
            }
        }
        Ok(())
    }

    pub(crate) fn disk_at(&self, changes: usize) -> Disk {
        let mut disk = self.disk.clone();
        self.recorder.changes()[..changes].iter().for_each(|c| disk.apply(c));
        disk
    }

    pub(crate) fn promise_at(&self, changes: usize) -> Promise {
        let mut promise = &self.before;
        for done in &self.done {
            if changes >= done.end {
                promise = &done.after;
            } else if changes > done.start {
                return done.during.clone();
            }
        }
        promise.clone()
    }

    /// Checks the repository after a crash, after this many changes.
    pub(crate) fn check_crash(&self, tree: &Tree, changes: usize) -> std::result::Result<(), String> {
        let folder = scratch();
        plant(tree, folder.path());
        check(folder.path(), &self.promise_at(changes), &self.contents)
    }
}

/// An artifact directory with a snapshot of a model, from another repository.
pub(crate) fn artifact(model: &Model, epoch: i64) -> TempDir {
    let (home, folder) = (scratch(), scratch());
    let _watch = quiet(home.path());
    let repository = Repository::open_or_create(home.path(), "").unwrap();
    let snapshot = model.save(&repository, epoch).unwrap();
    std::fs::write(folder.path().join("lamina.json"), repository.snapshot_bytes(snapshot.number).unwrap()).unwrap();
    std::fs::rename(home.path().join("packs"), folder.path().join("packs")).unwrap();
    folder
}

pub(crate) fn read(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let reader = repository.reader(snapshot)?;
    let mut file = vec![];
    for &(offset, length) in &reader.structure.files[0].extents {
        let at = file.len();
        file.resize(at + length as usize, 0);
        reader.read(vec![Want { offset, to: &mut file[at..] }], &task())?;
    }
    Ok(file)
}

/// Opens and verifies the repository, and reads every snapshot. All that was promised must be there, and saves and
/// prunes must work.
pub(crate) fn check(
    root: &Path,
    promise: &Promise,
    contents: &HashMap<i64, Vec<u8>>,
) -> std::result::Result<(), String> {
    let _watch = quiet(root);
    let told = |what: &'static str| move |e: lamina_core::Error| format!("{what}: {e}");
    let repository = match Repository::open(root) {
        Err(e) if e.kind() == ErrorKind::NotFound && !promise.repository => Repository::open_or_create(root, ""),
        other => other,
    }
    .map_err(told("open"))?;
    whole(&repository, contents)?;
    let snapshots = repository.snapshots().map_err(told("list"))?;
    for (id, number) in &promise.snapshots {
        if !snapshots.iter().any(|s| s.id == *id) {
            return Err(format!("snapshot {number} was reported and is lost"));
        }
    }
    for (alias, allowed) in &promise.aliases {
        let named = match repository.resolve(Some(SERIES), alias) {
            Ok(snapshot) => Some(snapshot.id.clone()),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(format!("alias {alias}: {e}")),
        };
        if !allowed.contains(&named) {
            return Err(format!("alias {alias} names {named:?}, not one of {allowed:?}"));
        }
    }
    go_on(&repository, promise, contents)
}

/// Everything that is visible is complete.
pub(crate) fn whole(repository: &Repository, contents: &HashMap<i64, Vec<u8>>) -> std::result::Result<(), String> {
    let report = repository.verify(true, &task()).map_err(|e| format!("verify: {e}"))?;
    if let Some(problem) = report.problems.first() {
        return Err(format!("verify: {problem}"));
    }
    for snapshot in repository.snapshots().map_err(|e| format!("list: {e}"))? {
        let bytes = read(repository, &snapshot).map_err(|e| format!("snapshot {}: {e}", snapshot.number))?;
        if Some(&bytes) != snapshot.body.epoch.and_then(|e| contents.get(&e)) {
            return Err(format!("snapshot {} holds other bytes than were saved", snapshot.number));
        }
    }
    Ok(())
}

/// Saves, prunes and checks again. No temporary files stay.
fn go_on(
    repository: &Repository,
    promise: &Promise,
    contents: &HashMap<i64, Vec<u8>>,
) -> std::result::Result<(), String> {
    let told = |what: &'static str| move |e: lamina_core::Error| format!("{what} afterwards: {e}");
    let mut contents = contents.clone();
    let model = Model([1, 1, 2, 999, 999]);
    contents.insert(9999, model.file());
    let snapshot = model.save(repository, 9999).map_err(told("save"))?;
    if snapshot.number <= promise.highest {
        return Err(format!("number {} was used twice", snapshot.number));
    }
    whole(repository, &contents).map_err(|e| format!("after the next save: {e}"))?;
    let keep = Keep { last: Some(1), ..Keep::default() };
    let pruned = repository.prune(Some(&keep), None, false, &task()).map_err(told("prune"))?;
    if pruned.waiting > 0 || !session::alive(repository.root()).map_err(told("sessions"))?.is_empty() {
        return Err(format!("{} packs wait for a session that is dead", pruned.waiting));
    }
    whole(repository, &contents).map_err(|e| format!("after prune: {e}"))?;
    let left = rubbish(repository.root());
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

/// Temporary files and folders of sessions.
fn rubbish(root: &Path) -> Vec<String> {
    let mut left = vec![];
    for folder in ["", "packs", "snapshots", "aliases", "sessions"] {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        left.extend(
            names
                .filter(|n| folder == "sessions" || n.starts_with('.') && n != ".gitignore")
                .map(|n| format!("{folder}/{n}")),
        );
    }
    left
}
