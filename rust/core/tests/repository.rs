//! The repository as a whole, on real files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use lamina_core::internals::{Call, faults::Watcher, faults::watch, session::Session};
use lamina_core::{
    Body, CodecChoice, ErrorKind, FileSpec, Keep, Layout, MemorySource, Repository, Result, Snapshot, Task, TensorSpec,
    Want,
};
use proptest::prelude::*;

fn task(threads: usize) -> Task<'static> {
    Task::new(threads).unwrap()
}

fn body(series: &str) -> Body {
    let json = format!(r#"{{"created_at":"2026-01-01T00:00:00.000Z","series":"{series}","kind":"weights"}}"#);
    serde_json::from_str(&json).unwrap()
}

/// One file of float32 tensors with a literal byte before each.
#[derive(Clone)]
struct Model(Vec<Vec<u8>>);

impl Model {
    fn new(seed: u64, sizes: &[usize]) -> Self {
        Self(sizes.iter().enumerate().map(|(i, &n)| noise(seed ^ (i as u64) << 32, n * 4)).collect())
    }

    fn spec(&self) -> FileSpec {
        let mut at = 0;
        let tensor = |(i, bytes): (usize, &Vec<u8>)| {
            at += 1 + bytes.len() as u64;
            TensorSpec {
                name: format!("l{}/{i}", i / 2),
                dtype: "<f4".into(),
                shape: vec![bytes.len() as u64 / 4],
                role: "weights".into(),
                offset: at - bytes.len() as u64,
            }
        };
        let tensors = self.0.iter().enumerate().map(tensor).collect();
        FileSpec { path: "m.h5".into(), size: at, tensors }
    }

    fn file(&self) -> Vec<u8> {
        self.0.iter().flat_map(|t| [&[7u8], t.as_slice()].concat()).collect()
    }
}

/// Bytes that look like small floats: the exponent byte hardly changes.
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..n).map(|i| if i % 4 == 3 { 0x3c + (next() % 3) as u8 } else { next() as u8 }).collect()
}

fn save(
    repository: &Repository,
    series: &str,
    model: &Model,
    threads: usize,
    change: impl FnOnce(&mut Body),
) -> Arc<Snapshot> {
    let mut fields = body(series);
    change(&mut fields);
    try_save(repository, fields, model, threads).unwrap()
}

fn try_save(repository: &Repository, fields: Body, model: &Model, threads: usize) -> Result<Arc<Snapshot>> {
    let layout = Layout::new(&[model.spec()], &[]).unwrap();
    let literals = vec![7; model.0.len()];
    let source =
        MemorySource { tensors: vec![model.0.iter().map(Vec::as_slice).collect(), vec![]], literals: vec![&literals] };
    source.check(&layout).unwrap();
    repository.save(fields, &layout, &source, CodecChoice::Auto, &task(threads))
}

fn exported(repository: &Repository, snapshot: &Snapshot) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let paths = repository.reader(snapshot).unwrap().export(out.path(), &task(2)).unwrap();
    std::fs::read(&paths[0]).unwrap()
}

fn create(root: &Path) -> Repository {
    Repository::open_or_create(root, "2026-01-01T00:00:00.000Z").unwrap()
}

fn packs(root: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(root.join("packs")).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len())).collect()
}

fn stored(root: &Path) -> u64 {
    fn size(path: &Path) -> u64 {
        std::fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| if e.path().is_dir() { size(&e.path()) } else { e.metadata().unwrap().len() })
            .sum()
    }
    size(root)
}

fn intact(repository: &Repository) {
    let report = repository.verify(true, &task(2)).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_save_comes_back() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[3, 400_000, 0, 5000, 7, 1]);
    let snapshot = save(&repository, "s", &model, 2, |_| ());
    assert_eq!(snapshot.number, 1);
    assert_eq!(snapshot.body.bytes_total, model.file().len() as u64);
    assert_eq!(exported(&repository, &snapshot), model.file());
    let again = Repository::open(root.path()).unwrap();
    let found = again.resolve(None, "latest").unwrap();
    assert_eq!(found.id, snapshot.id);
    let reader = again.reader(&found).unwrap();
    let entry = reader.structure.files[0].tensors[1].clone();
    let mut bytes = vec![0; 1_600_000];
    reader.read(vec![Want { offset: entry.offset, to: &mut bytes }], &task(3)).unwrap();
    assert_eq!(bytes, model.0[1]);
    intact(&again);
}

#[test]
fn an_unchanged_state_costs_nothing() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[300_000, 500, 20, 900_000]);
    save(&repository, "s", &model, 2, |_| ());
    let before = stored(root.path());
    let second = save(&repository, "other", &model, 1, |_| ());
    assert_eq!((second.body.bytes_new, second.body.bytes_stored), (0, 0));
    assert!(stored(root.path()) - before < 2000);
}

#[test]
fn packs_do_not_depend_on_threads() {
    let contents: Vec<_> = [1, 2, 5]
        .map(|threads| {
            let root = tempfile::tempdir().unwrap();
            let repository = create(root.path());
            let mut model = Model::new(3, &[1_000_000, 70_000, 3, 5_000_000, 40]);
            save(&repository, "s", &model, threads, |_| ());
            model.0[3][17] ^= 1;
            save(&repository, "s", &model, threads, |_| ());
            packs(root.path())
        })
        .into();
    assert!(contents[0].len() > 2);
    assert_eq!(contents[0], contents[1]);
    assert_eq!(contents[0], contents[2]);
}

#[test]
fn three_hundred_versions_stay_compact() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let mut model = Model::new(5, &[8_000; 400]);
    let mut newest = save(&repository, "s", &model, 2, |_| ());
    for version in 1..300u64 {
        for i in 0..4 {
            let index = (noise(version * 10 + i, 8).iter().fold(0usize, |a, &b| a * 31 + b as usize)) % 400;
            model.0[index] = noise(version * 1000 + i, 32_000);
        }
        newest = save(&repository, "s", &model, 2, |_| ());
    }
    let live: u64 = {
        let fresh = tempfile::tempdir().unwrap();
        save(&create(fresh.path()), "s", &model, 2, |_| ());
        packs(fresh.path()).values().sum()
    };
    let held: u64 = repository.packs_of(&newest).unwrap().iter().map(|p| p.1).sum();
    assert!(held as f64 <= 1.7 * live as f64, "{held} against {live}");
    let all = stored(root.path());
    let pruned = repository.prune(Some(&Keep { last: Some(1), ..Keep::default() }), None, false, &task(1)).unwrap();
    assert_eq!(pruned.snapshots.len(), 299);
    assert!(stored(root.path()) < all / 2);
    assert_eq!(exported(&repository, &newest), model.file());
    intact(&repository);
}

#[test]
fn frozen_tensors_are_rewritten_once() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let mut model = Model::new(7, &[20_000, 20_000, 20_000]);
    save(&repository, "s", &model, 1, |_| ());
    let mut stored = vec![];
    for version in 1..8 {
        (model.0[1], model.0[2]) = (noise(version, 80_000), noise(version + 100, 80_000));
        stored.push(save(&repository, "s", &model, 1, |_| ()).body.bytes_stored);
    }
    // The first pack is left with one tensor of three, which is written again; from then on only what changes is.
    assert!(stored[0] > stored[1] + 40_000, "{stored:?}");
    assert!(stored[1..].iter().all(|&s| s < stored[1] + 1000), "{stored:?}");
}

#[test]
fn retention_leaves_other_series_alone() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let scored = |value: f64, epoch: i64| {
        move |b: &mut Body| {
            b.monitor = Some("val_loss".into());
            b.mode = Some("min".into());
            b.value = value.into();
            b.epoch = Some(epoch);
            b.best = value == 0.5;
        }
    };
    let models: Vec<_> = (0..6).map(|i| Model::new(i, &[9000])).collect();
    for (i, value) in [0.9, 0.5, 0.7, 0.6].into_iter().enumerate() {
        save(&repository, "a", &models[i], 1, scored(value, i as i64));
    }
    save(&repository, "b", &models[4], 1, |_| ());
    save(&repository, "b", &models[5], 1, |_| ());
    let tagged = repository.resolve(Some("a"), "epoch_0").unwrap();
    repository.set_alias(&tagged, "paper").unwrap();
    let keep = Keep { last: Some(1), best: Some(1), every: None };
    let plan = repository.prune(Some(&keep), Some("a"), true, &task(1)).unwrap();
    assert_eq!(plan.snapshots, [3]);
    assert_eq!(repository.snapshots().unwrap().len(), 6);
    repository.prune(Some(&keep), Some("a"), false, &task(1)).unwrap();
    assert_eq!(repository.resolve(Some("a"), "best").unwrap().number, 2);
    assert_eq!(exported(&repository, &repository.resolve(Some("b"), "5").unwrap()), models[4].file());
    assert_eq!(repository.resolve(Some("b"), "epoch_9").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(repository.resolve(None, "latest").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(exported(&repository, &repository.resolve(Some("a"), "paper").unwrap()), models[0].file());
    intact(&repository);
}

#[test]
fn numbers_are_never_used_twice() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[10]);
    let value = |v: f64| {
        move |b: &mut Body| {
            (b.monitor, b.mode, b.value, b.best) = (Some("m".into()), Some("max".into()), v.into(), true)
        }
    };
    save(&repository, "s", &model, 1, value(2.0));
    save(&repository, "s", &model, 1, value(1.0));
    repository.prune(Some(&Keep { best: Some(1), ..Keep::default() }), None, false, &task(1)).unwrap();
    assert_eq!(repository.snapshots().unwrap().len(), 1);
    assert_eq!(save(&repository, "s", &model, 1, |_| ()).number, 3);
    assert!(Keep::default().check().is_err());
}

#[test]
fn prune_waits_for_saves_under_way() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    save(&repository, "s", &Model::new(1, &[9000]), 1, |_| ());
    save(&repository, "s", &Model::new(2, &[9000]), 1, |_| ());
    let keep = Keep { last: Some(1), ..Keep::default() };
    // A save that began before prune may have deduplicated against the first pack.
    let early = Session::begin(root.path()).unwrap();
    let pruned = repository.prune(Some(&keep), None, false, &task(1)).unwrap();
    assert_eq!((pruned.snapshots.len(), pruned.packs, pruned.waiting), (1, 0, 1));
    drop(early);
    let late = Session::begin(root.path()).unwrap();
    let pruned = repository.prune(None, None, false, &task(1)).unwrap();
    assert_eq!((pruned.packs, pruned.waiting), (1, 0));
    drop(late);
    assert!(!root.path().join("condemned.json").exists());
    intact(&repository);
}

#[test]
fn a_condemned_pack_is_not_relied_on() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[9000]);
    save(&repository, "s", &model, 1, |_| ());
    let condemned = packs(root.path()).into_keys().next().unwrap();
    save(&repository, "s", &Model::new(2, &[9000]), 1, |_| ());
    let early = Session::begin(root.path()).unwrap();
    repository.prune(Some(&Keep { last: Some(1), ..Keep::default() }), None, false, &task(1)).unwrap();
    // Its chunks are stored again, in a pack of another name: a prune may delete the old pack at any time.
    let snapshot = save(&repository, "s", &model, 1, |_| ());
    assert!(snapshot.body.bytes_new >= 36_000);
    std::fs::remove_file(root.path().join("packs").join(condemned)).unwrap();
    drop(early);
    assert_eq!(exported(&repository, &snapshot), model.file());
    repository.prune(None, None, false, &task(1)).unwrap();
    intact(&repository);
}

#[test]
fn a_pack_that_was_condemned_in_vain_stays() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[9000]);
    save(&repository, "s", &model, 1, |_| ());
    save(&repository, "s", &Model::new(2, &[9000]), 1, |_| ());
    let slow = Session::begin(root.path()).unwrap();
    repository.prune(Some(&Keep { last: Some(1), ..Keep::default() }), None, false, &task(1)).unwrap();
    // The slow save commits a snapshot that uses the condemned pack.
    let condemned = std::fs::read(root.path().join("condemned.json")).unwrap();
    std::fs::remove_file(root.path().join("condemned.json")).unwrap();
    let snapshot = save(&repository, "s", &model, 1, |_| ());
    assert_eq!(snapshot.body.bytes_new, 0);
    std::fs::write(root.path().join("condemned.json"), condemned).unwrap();
    drop(slow);
    let pruned = repository.prune(None, None, false, &task(1)).unwrap();
    assert_eq!((pruned.packs, pruned.waiting), (0, 0));
    assert_eq!(exported(&repository, &snapshot), model.file());
}

#[test]
fn a_folder_with_other_things_is_no_repository() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("thesis.tex"), "x").unwrap();
    assert_eq!(Repository::open_or_create(root.path(), "").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(Repository::open(root.path()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
}

/// Interrupts a call when its interrupt is asked for the n-th time.
struct Ends(std::sync::atomic::AtomicUsize);

impl Ends {
    fn at(n: usize) -> Self {
        Self(std::sync::atomic::AtomicUsize::new(n))
    }

    fn look(&self) -> Result<()> {
        let left = self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        if left == 1 { Err(lamina_core::Error::cancelled()) } else { Ok(()) }
    }
}

#[test]
fn an_interrupted_prune_is_done_by_the_next() {
    let keep = Keep { last: Some(1), ..Keep::default() };
    let mut interrupted = 0;
    for n in 1.. {
        let root = tempfile::tempdir().unwrap();
        let repository = create(root.path());
        for seed in 1..=4 {
            save(&repository, "s", &Model::new(seed, &[100_000]), 2, |_| ());
        }
        let ends = Ends::at(n);
        let stop = || ends.look();
        match repository.prune(Some(&keep), None, false, &task(1).interrupted_by(&stop)) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            Ok(_) => break,
        }
        interrupted += 1;
        let again = Repository::open(root.path()).unwrap();
        again.prune(Some(&keep), None, false, &task(1)).unwrap();
        let left = again.snapshots().unwrap();
        assert_eq!(left.iter().map(|s| s.number).collect::<Vec<_>>(), [4]);
        let needed = again.packs_of(&left[0]).unwrap().len();
        assert_eq!(std::fs::read_dir(root.path().join("packs")).unwrap().count(), needed);
        intact(&again);
    }
    // Once for each snapshot that stays, each that is deleted, each pack that is deleted, and again for those that
    // stay.
    assert!(interrupted >= 8, "{interrupted}");
}

/// Replaces a pack by a link to itself when it is opened for the n-th time.
#[cfg(unix)]
struct Unreadable {
    pack: std::path::PathBuf,
    left: Ends,
}

#[cfg(unix)]
impl Watcher for Unreadable {
    fn before(&self, call: &Call<'_>) -> std::io::Result<()> {
        if matches!(call, Call::Open(path) if *path == self.pack) && self.left.look().is_err() {
            std::fs::remove_file(&self.pack)?;
            std::os::unix::fs::symlink(&self.pack, &self.pack)?;
        }
        Ok(())
    }

    fn after(&self, _call: &Call<'_>) {}
}

#[cfg(unix)]
#[test]
fn a_sample_that_cannot_be_read_is_no_sample_of_a_pruned_pack() {
    let mut refused = 0;
    for n in 1.. {
        let root = tempfile::tempdir().unwrap();
        let repository = create(root.path());
        save(&repository, "s", &Model::new(1, &[1000]), 1, |_| ());
        let pack = std::fs::read_dir(root.path().join("packs")).unwrap().next().unwrap().unwrap().path();
        let watcher = Arc::new(Unreadable { pack, left: Ends::at(n) });
        let opened = Repository::open(root.path()).unwrap();
        let watch = watch(root.path(), watcher.clone());
        let report = opened.verify_sample(1.0, 1, &task(1));
        drop(watch);
        if watcher.pack.metadata().is_ok() {
            report.unwrap();
            break;
        }
        assert_eq!(report.unwrap_err().kind(), ErrorKind::Io, "the open {n}");
        refused += 1;
    }
    assert!(refused >= 2, "{refused}");
}

#[test]
fn an_interrupted_repair_of_the_config_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    save(&create(root.path()), "s", &Model::new(1, &[1000]), 1, |_| ());
    let config = root.path().join("config.json");
    std::fs::write(&config, "damaged").unwrap();
    let ends = Ends::at(1);
    let stop = || ends.look();
    let restore = |task: &Task<'_>| Repository::restore_config(root.path(), &[], "", task);
    assert_eq!(restore(&task(1).interrupted_by(&stop)).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(std::fs::read(&config).unwrap(), b"damaged");
    restore(&task(1)).unwrap();
    intact(&Repository::open(root.path()).unwrap());
}

#[test]
fn a_failed_save_leaves_nothing_but_garbage() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[1_000_000]);
    let layout = Layout::new(&[model.spec()], &[]).unwrap();
    let literals = vec![7; 1];
    let source = MemorySource { tensors: vec![vec![&model.0[0]], vec![]], literals: vec![&literals] };
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let stop = || {
        if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 2 {
            Err(lamina_core::Error::cancelled())
        } else {
            Ok(())
        }
    };
    let task = task(2).interrupted_by(&stop);
    assert_eq!(
        repository.save(body("s"), &layout, &source, CodecChoice::Auto, &task).unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    assert!(repository.snapshots().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(root.path().join("sessions")).unwrap().count(), 0);
    save(&repository, "s", &model, 2, |_| ());
    intact(&repository);
}

/// Every file of a repository, cut off and bit-flipped: never a panic, never wrong data.
#[test]
fn damage_is_found() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[30, 6000]);
    let snapshot = save(&repository, "s", &model, 1, |_| ());
    repository.set_alias(&snapshot, "mine").unwrap();
    let mut files = vec![];
    for folder in ["packs", "snapshots", "aliases"] {
        files.extend(std::fs::read_dir(root.path().join(folder)).unwrap().map(|e| e.unwrap().path()));
    }
    files.push(root.path().join("config.json"));
    for path in files {
        let good = std::fs::read(&path).unwrap();
        let cuts = (0..good.len()).step_by(1 + good.len() / 400).map(|n| good[..n].to_vec());
        let flips = (0..good.len()).step_by(1 + good.len() / 400).map(|i| {
            let mut bad = good.clone();
            bad[i] ^= 1 << (i % 8);
            bad
        });
        for bad in cuts.chain(flips) {
            std::fs::write(&path, &bad).unwrap();
            let found = Repository::open(root.path()).and_then(|r| {
                if let Ok(snapshot) = r.resolve(None, "mine") {
                    let out = tempfile::tempdir().unwrap();
                    if let Ok(paths) = r.reader(&snapshot).and_then(|reader| reader.export(out.path(), &task(1))) {
                        assert_eq!(std::fs::read(&paths[0]).unwrap(), model.file(), "{}", path.display());
                    }
                }
                let report = r.verify(true, &task(1))?;
                report.error().map_or(Ok(()), Err)
            });
            assert_eq!(found.unwrap_err().kind(), ErrorKind::Corrupt, "{}", path.display());
        }
        std::fs::write(&path, &good).unwrap();
    }
    intact(&repository);
}

#[test]
fn a_damaged_snapshot_hides_no_other() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    for seed in 0..3 {
        save(&repository, "s", &Model::new(seed, &[50]), 1, |b| b.epoch = Some(seed as i64));
    }
    std::fs::write(root.path().join("snapshots/0000000002.json"), "{").unwrap();
    let again = Repository::open(root.path()).unwrap();
    for (reference, number) in [("latest", 3), ("1", 1), ("3", 3)] {
        assert_eq!(again.resolve(None, reference).unwrap().number, number);
    }
    for reference in ["2", "best", "epoch_1", "epoch_0"] {
        assert_eq!(again.resolve(None, reference).unwrap_err().kind(), ErrorKind::Corrupt, "{reference}");
    }
    let keep = Keep { last: Some(1), ..Keep::default() };
    assert_eq!(again.prune(Some(&keep), None, false, &task(1)).unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::write(root.path().join("snapshots/0000000003.json"), "{").unwrap();
    assert_eq!(Repository::open(root.path()).unwrap().resolve(None, "latest").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_second_copy_of_a_chunk_is_read_where_the_first_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[90_000]);
    let first = save(&repository, "s", &model, 1, |_| ());
    let pack = root.path().join("packs").join(packs(root.path()).keys().next().unwrap());
    let good = std::fs::read(&pack).unwrap();
    std::fs::remove_file(&pack).unwrap();
    // Another pack with the same chunks, beside those of one more tensor.
    let wider = Model([model.0.clone(), vec![noise(9, 40_000)]].concat());
    save(&Repository::open(root.path()).unwrap(), "s", &wider, 1, |_| ());
    let mut bad = good.clone();
    bad[100] ^= 1;
    std::fs::write(&pack, bad).unwrap();
    assert_eq!(exported(&Repository::open(root.path()).unwrap(), &first), model.file());
}

#[test]
fn a_damaged_pack_heals_with_the_next_save() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[9000]);
    save(&repository, "s", &model, 1, |_| ());
    let pack = root.path().join("packs").join(packs(root.path()).keys().next().unwrap());
    std::fs::write(&pack, b"gone").unwrap();
    let again = Repository::open(root.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let reader = again.reader(&again.resolve(None, "latest").unwrap());
    let error = reader.and_then(|r| r.export(out.path(), &task(1))).unwrap_err();
    assert!(error.message().contains("pack"), "{error}");
    let snapshot = save(&again, "s", &model, 1, |_| ());
    assert_eq!(exported(&again, &snapshot), model.file());
    // The pack got its old name, and its old bytes.
    intact(&again);
}

#[test]
fn a_pack_that_was_mended_is_read_again() {
    let root = tempfile::tempdir().unwrap();
    let model = Model::new(1, &[9000]);
    let snapshot = save(&create(root.path()), "s", &model, 1, |_| ());
    let pack = root.path().join("packs").join(packs(root.path()).keys().next().unwrap());
    let whole = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, b"gone").unwrap();
    let repository = Repository::open(root.path()).unwrap();
    let read = |r: &Repository| r.reader(&snapshot)?.export(tempfile::tempdir().unwrap().path(), &task(1)).map(drop);
    assert_eq!(read(&repository).unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::write(&pack, &whole).unwrap();
    assert_eq!(exported(&repository, &snapshot), model.file());
    // New damage is found by a repository that is opened again.
    std::fs::write(&pack, b"gone again").unwrap();
    assert!(!repository.verify(false, &task(1)).unwrap().problems.is_empty());
    std::fs::write(&pack, &whole).unwrap();
    intact(&repository);
    assert_eq!(exported(&repository, &snapshot), model.file());
}

#[test]
fn a_snapshot_that_no_reader_would_take_is_not_committed() {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let model = Model::new(1, &[9000]);
    let first = save(&repository, "s", &model, 1, |_| ());
    let changes: [fn(&mut Body); 4] = [
        |b| b.required.push("telepathy".into()),
        |b| b.blocked_seconds = f64::NAN,
        |b| b.value = "much".into(),
        |b| drop(b.other.insert("optional".into(), 1.into())),
    ];
    for change in changes {
        let mut fields = body("s");
        change(&mut fields);
        let error = try_save(&repository, fields, &model, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        for repository in [&repository, &Repository::open(root.path()).unwrap()] {
            assert_eq!(repository.snapshots().unwrap().len(), 1);
            repository.prune(None, None, false, &task(1)).unwrap();
            assert_eq!(exported(repository, &first), model.file());
        }
    }
    assert_eq!(save(&repository, "s", &model, 1, |_| ()).number, 2);
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Two copies of a repository that were saved to separately: their snapshots number 2 differ.
struct Apart {
    _folder: tempfile::TempDir,
    /// The repository to damage, the copy that differs, and an exact copy of the first.
    roots: [std::path::PathBuf; 3],
    second: Arc<Snapshot>,
}

impl Apart {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = ["a", "b", "copy"].map(|name| folder.path().join(name));
        let ours = create(&roots[0]);
        let first = save(&ours, "s", &Model::new(1, &[9000]), 1, |_| ());
        copy_all(&roots[0], &roots[1]);
        let second = save(&ours, "s", &Model::new(2, &[9000]), 1, |_| ());
        ours.set_alias(&first, "paper").unwrap();
        copy_all(&roots[0], &roots[2]);
        let other = Repository::open(&roots[1]).unwrap();
        assert_eq!(other.id(), ours.id());
        let theirs = save(&other, "s", &Model::new(3, &[9000]), 1, |_| ());
        assert_eq!((theirs.number, theirs.id == second.id), (2, false));
        other.set_alias(&theirs, "paper").unwrap();
        Self { _folder: folder, roots, second }
    }

    fn path(&self) -> std::path::PathBuf {
        self.roots[0].join("snapshots/0000000002.json")
    }

    fn repair(&self, from: &[usize]) -> lamina_core::Repaired {
        let sources: Vec<_> = from.iter().map(|&i| self.roots[i].clone()).collect();
        Repository::open(&self.roots[0]).unwrap().repair(vec![], &sources, &task(1)).unwrap()
    }
}

#[test]
fn a_repair_takes_no_other_state_for_the_one_that_is_lost() {
    // Damage after the first line; in the digest; everything except the session.
    fn flip(at: usize) -> impl Fn(&mut Vec<u8>) {
        move |bytes| bytes[at] ^= 1
    }
    let damages: [fn(&mut Vec<u8>); 2] = [|bytes| flip(bytes.len() - 9)(bytes), |bytes| flip(60)(bytes)];
    for damage in damages {
        let apart = Apart::new();
        let mut bytes = std::fs::read(apart.path()).unwrap();
        damage(&mut bytes);
        std::fs::write(apart.path(), &bytes).unwrap();
        let done = apart.repair(&[1]);
        assert_eq!((done.restored.len(), done.lost.len(), done.lost[0].snapshot), (0, 1, 2));
        assert!(!apart.path().exists());
        // The copy that differs comes first.
        let done = apart.repair(&[1, 2]);
        assert_eq!((done.restored.as_slice(), done.lost.len()), (&["snapshots/0000000002.json".to_owned()][..], 0));
        let repository = Repository::open(&apart.roots[0]).unwrap();
        assert_eq!(repository.resolve(None, "2").unwrap().id, apart.second.id);
    }
}

#[test]
fn a_repair_takes_no_other_alias_for_the_one_that_is_lost() {
    let apart = Apart::new();
    let alias = std::fs::read_dir(apart.roots[0].join("aliases")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&alias).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&alias, &bytes).unwrap();
    let done = apart.repair(&[1, 2]);
    assert_eq!((done.restored.len(), done.problems), (1, vec![]));
    assert_eq!(Repository::open(&apart.roots[0]).unwrap().resolve(None, "paper").unwrap().number, 1);
    std::fs::write(&alias, &bytes).unwrap();
    let done = apart.repair(&[1]);
    assert_eq!((done.restored.len(), done.quarantined.len()), (0, 1));
    assert!(!alias.exists());
}

/// A snapshot, and the file that a restore of it must give.
type Saved = (Arc<Snapshot>, Vec<u8>);

#[derive(Debug, Clone)]
enum Step {
    Save { series: usize, seed: u64, tensors: Vec<usize> },
    Change { series: usize, tensor: usize, seed: u64 },
    Keep { series: Option<usize>, last: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0usize..10, 3000usize..6000, 250_000usize..300_000];
    prop_oneof![
        2 => (0usize..3, any::<u64>(), prop::collection::vec(size, 1..5)).prop_map(|(series, seed, tensors)| Step::Save { series, seed, tensors }),
        4 => (0usize..3, any::<usize>(), any::<u64>()).prop_map(|(series, tensor, seed)| Step::Change { series, tensor, seed }),
        2 => (prop::option::of(0usize..3), 1usize..4).prop_map(|(series, last)| Step::Keep { series, last }),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_history_comes_back(steps in prop::collection::vec(step(), 1..24)) {
        let root = tempfile::tempdir().unwrap();
        let mut repository = create(root.path());
        let mut models: BTreeMap<usize, Model> = BTreeMap::new();
        let mut held: BTreeMap<usize, Vec<Saved>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Save { series, seed, tensors } => {
                    models.insert(series, Model::new(seed, &tensors));
                }
                Step::Change { series, tensor, seed } => {
                    let Some(model) = models.get_mut(&series) else { continue };
                    let index = tensor % model.0.len();
                    model.0[index] = noise(seed, model.0[index].len());
                }
                Step::Keep { series, last } => {
                    let name = series.map(|s| format!("s{s}"));
                    let keep = Keep { last: Some(last), ..Keep::default() };
                    if name.is_some() && !held.contains_key(&series.unwrap()) { continue }
                    repository.prune(Some(&keep), name.as_deref(), false, &task(1)).unwrap();
                    for (s, list) in &mut held {
                        if series.is_none_or(|n| n == *s) {
                            let cut = list.len().saturating_sub(last);
                            list.drain(..cut);
                        }
                    }
                    continue;
                }
                Step::Reopen => {
                    repository = Repository::open(root.path()).unwrap();
                    continue;
                }
            }
            for (series, model) in &models {
                if held.get(series).and_then(|l| l.last()).is_none_or(|l| l.1 != model.file()) {
                    let snapshot = save(&repository, &format!("s{series}"), model, 2, |_| ());
                    held.entry(*series).or_default().push((snapshot, model.file()));
                }
            }
        }
        let numbers: HashSet<u64> = repository.snapshots().unwrap().iter().map(|s| s.number).collect();
        prop_assert_eq!(numbers, held.values().flatten().map(|h| h.0.number).collect());
        for (snapshot, file) in held.values().flatten() {
            prop_assert_eq!(&exported(&repository, snapshot), file);
        }
        intact(&repository);
    }
}
