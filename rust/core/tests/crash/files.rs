//! Plain files: whatever happens, the path has the complete old file or the complete new one, and no temporary file
//! stays.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lamina_core::internals::faults::Watch;
use lamina_core::{ErrorKind, Image, Repository, Result};
use tempfile::TempDir;

use crate::chance::Chance;
use crate::disk::{Disk, Fate, Tree, plant};
use crate::watch::{Recorder, Refusal, quiet};
use crate::world::{Model, TENSORS, scratch, task};
use crate::{A, B, C, Cases, REFUSED, digest, first_seed, names, soak};

/// The name of the exported file.
const FILE: &str = "m.h5";

/// How a file is written.
#[derive(Debug, Clone)]
enum Way {
    /// From memory, as a callback writes it.
    Image(Model),
    /// From a repository.
    Export(Model),
}

impl Way {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Image(model) | Self::Export(model) => model.file(),
        }
    }

    fn write(&self, folder: &Path) -> Result<()> {
        match self {
            Self::Image(model) => {
                let bytes = model.file();
                let half = bytes.len() / 2;
                Image::new(bytes.len() as u64, vec![(half as u64, &bytes[half..])], &bytes[..half])?
                    .write(&folder.join(FILE), &task())
            }
            Self::Export(model) => {
                let home = scratch();
                let _watch = quiet(home.path());
                let repository = Repository::open_or_create(home.path(), "").unwrap();
                let snapshot = model.save(&repository, 0).unwrap();
                repository.reader(&snapshot).unwrap().export(folder, &task()).map(drop)
            }
        }
    }
}

/// A folder with one file, and what the file may contain.
struct Shelf {
    root: TempDir,
    disk: Disk,
    recorder: Arc<Recorder>,
    _watch: Watch,
    /// `None`: no file.
    before: Vec<Option<Vec<u8>>>,
    during: Vec<Option<Vec<u8>>>,
    after: Vec<Option<Vec<u8>>>,
}

impl Shelf {
    fn new(old: Option<&Model>) -> Self {
        let root = scratch();
        if let Some(model) = old {
            std::fs::write(root.path().join(FILE), model.file()).unwrap();
        }
        let disk = Disk::scan(root.path());
        Self::at(root, disk, vec![old.map(Model::file)], None)
    }

    fn at(root: TempDir, disk: Disk, allowed: Vec<Option<Vec<u8>>>, refusal: Option<Refusal>) -> Self {
        let (recorder, watch) = Recorder::watch(root.path(), refusal);
        let (during, after) = (allowed.clone(), allowed.clone());
        Self { root, disk, recorder, _watch: watch, before: allowed, during, after }
    }

    fn refusing(old: Option<&Model>, refusal: Refusal) -> Self {
        let Self { root, disk, before, .. } = Self::new(old);
        Self::at(root, disk, before, Some(refusal))
    }

    /// One write for each shelf; [`Shelf::killed_at`] gives the next one.
    fn run(&mut self, way: &Way) -> Result<()> {
        self.during.push(Some(way.bytes()));
        let result = way.write(self.root.path());
        self.after = if result.is_ok() { vec![Some(way.bytes())] } else { self.during.clone() };
        result
    }

    fn disk_at(&self, changes: usize) -> Disk {
        let mut disk = self.disk.clone();
        self.recorder.changes()[..changes].iter().for_each(|c| disk.apply(c));
        disk
    }

    fn allowed_at(&self, changes: usize) -> &[Option<Vec<u8>>] {
        match changes {
            0 => &self.before,
            n if n < self.recorder.len() => &self.during,
            _ => &self.after,
        }
    }

    fn killed_at(&self, changes: usize) -> Self {
        let disk = self.disk_at(changes);
        let root = scratch();
        plant(&disk.after_crash(&mut Fate::Everything), root.path());
        Self::at(root, disk, self.allowed_at(changes).to_vec(), None)
    }

    fn check(&self, cases: &mut Cases, changes: usize, mut fate: Fate, name: &str) {
        let tree = self.disk_at(changes).after_crash(&mut fate);
        let allowed = self.allowed_at(changes);
        if !cases.seen.insert(digest(&tree, &format!("{allowed:?}"))) {
            return;
        }
        cases.cases += 1;
        let found = tree.get(Path::new(FILE)).cloned().flatten();
        assert!(allowed.contains(&found), "{name}, crash after {changes} changes: {:?}", names(&tree));
        life_goes_on(&tree, name);
    }
}

/// The next write succeeds, and removes what the crash has left, but nothing else.
fn life_goes_on(tree: &Tree, name: &str) {
    let folder = scratch();
    plant(tree, folder.path());
    std::fs::write(folder.path().join(".mine.tmp"), "x").unwrap();
    let _watch = quiet(folder.path());
    let next = Way::Image(Model([9; TENSORS]));
    next.write(folder.path()).unwrap_or_else(|e| panic!("{name}, afterwards: {e}"));
    let left = Disk::scan(folder.path()).after_crash(&mut Fate::Nothing);
    let expected = BTreeMap::from([
        (Path::new("").to_owned(), None),
        (Path::new(FILE).to_owned(), Some(next.bytes())),
        (Path::new(".mine.tmp").to_owned(), Some(b"x".to_vec())),
    ]);
    assert_eq!(names(&left), names(&expected), "{name}");
    assert!(left == expected, "{name}: other bytes");
}

fn scenarios() -> Vec<(Option<Model>, Way)> {
    [Way::Image(B), Way::Export(C)].into_iter().flat_map(|way| [(None, way.clone()), (Some(A), way)]).collect()
}

#[test]
fn a_plain_file_is_the_old_or_the_new_one_at_every_point() {
    let start = Instant::now();
    let mut cases = Cases::default();
    for (old, way) in scenarios() {
        let mut shelf = Shelf::new(old.as_ref());
        shelf.run(&way).unwrap();
        let name = format!("{way:?} over {old:?}");
        assert!(shelf.recorder.len() >= 4, "{name} goes through the storage layer");
        for changes in 0..=shelf.recorder.len() {
            cases.points += 1;
            for fate in [Fate::Nothing, Fate::Everything, Fate::NamesOnly, Fate::BytesOnly] {
                shelf.check(&mut cases, changes, fate, &name);
            }
            for seed in 0..6 {
                shelf.check(&mut cases, changes, Fate::Random(Chance::new(seed * 100 + changes as u64)), &name);
            }
        }
    }
    cases.tell("plain files, crash at every point", start);
}

#[test]
fn a_plain_file_is_the_old_or_the_new_one_whatever_is_refused() {
    let start = Instant::now();
    let mut cases = Cases::default();
    for (old, way) in scenarios() {
        let mut shelf = Shelf::new(old.as_ref());
        shelf.run(&way).unwrap();
        for at in 0..shelf.recorder.calls() {
            cases.points += 1;
            for (errno, word) in REFUSED {
                for lasting in [false, true] {
                    if lasting && errno == libc::EINTR {
                        continue;
                    }
                    let name = format!("{way:?} over {old:?}, call {at} gives {word}, lasting: {lasting}");
                    let mut shelf = Shelf::refusing(old.as_ref(), Refusal { at, errno, lasting });
                    match shelf.run(&way) {
                        Err(e) if errno == libc::EINTR => panic!("{name}: {e}"),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::Io, "{name}: {e}"),
                        Ok(()) => {}
                    }
                    for fate in [Fate::Everything, Fate::Nothing, Fate::Random(Chance::new(at as u64))] {
                        shelf.check(&mut cases, shelf.recorder.len(), fate, &name);
                    }
                }
            }
        }
    }
    cases.tell("plain files, every call refused", start);
}

#[test]
fn plain_files_written_by_chance_with_kills() {
    let start = Instant::now();
    let mut cases = Cases::default();
    let mut seed = first_seed();
    while soak().map_or(cases.cases < 3000, |limit| start.elapsed() < limit) {
        let mut chance = Chance::new(seed);
        let mut shelf = Shelf::new(chance.one_in(2).then_some(&A));
        for _ in 0..1 + chance.below(5) {
            let model = Model([(); TENSORS].map(|()| chance.below(1000) as u64));
            let way = if chance.one_in(2) { Way::Image(model) } else { Way::Export(model) };
            shelf.run(&way).unwrap();
            for _ in 0..6 {
                let changes = chance.below(shelf.recorder.len() + 1);
                let fate = Fate::Random(Chance::new(chance.next()));
                shelf.check(&mut cases, changes, fate, &format!("plain files, LAMINA_SEED={seed}"));
                cases.points += 1;
            }
            let changes = if chance.one_in(2) { shelf.recorder.len() } else { chance.below(shelf.recorder.len() + 1) };
            shelf = shelf.killed_at(changes);
        }
        seed += 1;
    }
    cases.tell("plain files, crash in a mix of writes", start);
}
