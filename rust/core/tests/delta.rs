//! Deltas through the life of a repository.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_core::internals::{Call, faults::Watcher, faults::watch, pack};
use lamina_core::{
    Body, CodecChoice, ErrorKind, FileSpec, Keep, Layout, MemorySource, Repository, Snapshot, Task, TensorSpec,
};
use proptest::prelude::*;

fn task(threads: usize) -> Task<'static> {
    Task::new(threads).unwrap()
}
const DTYPES: [(&str, usize); 7] =
    [("<f4", 4), ("<f8", 8), ("bfloat16", 2), ("float8_e4m3fn", 1), (">f4", 4), ("<i8", 8), ("|V3", 3)];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}

/// Tensors of one file: dtype and bytes.
type Model = Vec<(&'static str, Vec<u8>)>;

/// Normally distributed floats, which planes compress.
fn floats(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut value = || (0..6).map(|_| random.next() as f64 / u64::MAX as f64 - 0.5).sum::<f64>() as f32 * 0.05;
    (0..count).flat_map(|_| value().to_le_bytes()).collect()
}

/// A step of training: every float moves by about `by` floats.
fn train(bytes: &mut [u8], seed: u64, reach: u64) {
    let mut random = Random(seed);
    for word in bytes.as_chunks_mut::<4>().0 {
        let step = (random.next() % (2 * reach + 1)) as u32;
        *word = u32::from_le_bytes(*word).wrapping_add(step).wrapping_sub(reach as u32).to_le_bytes();
    }
}

/// One row in a hundred changes.
fn touch(bytes: &mut [u8], seed: u64, row: usize) {
    let mut random = Random(seed);
    for row in bytes.chunks_mut(row) {
        if random.next().is_multiple_of(100) {
            train(row, random.next(), 1 << 20);
        }
    }
}

fn layout(model: &Model, path: &str) -> Layout {
    let mut at = 0;
    let tensors = model.iter().enumerate().map(|(i, (dtype, bytes))| {
        let size = DTYPES.iter().find(|d| d.0 == *dtype).unwrap().1;
        at += bytes.len() as u64;
        TensorSpec {
            name: format!("l{i}/kernel"),
            dtype: (*dtype).into(),
            shape: vec![(bytes.len() / size) as u64],
            role: "weights".into(),
            offset: at - bytes.len() as u64,
        }
    });
    let tensors = tensors.collect();
    Layout::new(&[FileSpec { path: path.into(), size: at, tensors }], &[]).unwrap()
}

fn save(repository: &Repository, series: &str, model: &Model, codec: CodecChoice, threads: usize) -> Arc<Snapshot> {
    save_as("m.h5", repository, series, model, codec, threads)
}

fn save_as(
    path: &str,
    repository: &Repository,
    series: &str,
    model: &Model,
    codec: CodecChoice,
    threads: usize,
) -> Arc<Snapshot> {
    let layout = layout(model, path);
    let buffers = model.iter().map(|t| t.1.as_slice()).collect();
    let source = MemorySource { tensors: vec![buffers, vec![]], literals: vec![&[]] };
    source.check(&layout).unwrap();
    let json = format!(r#"{{"created_at":"2026-01-01T00:00:00.000Z","series":"{series}","kind":"weights"}}"#);
    let body: Body = serde_json::from_str(&json).unwrap();
    repository.save(body, &layout, &source, codec, &task(threads)).unwrap()
}

fn open(root: &Path) -> Repository {
    Repository::open_or_create(root, "2026-01-01T00:00:00.000Z").unwrap()
}

fn exported(repository: &Repository, snapshot: &Snapshot) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let paths = repository.reader(snapshot).unwrap().export(out.path(), &task(2)).unwrap();
    std::fs::read(&paths[0]).unwrap()
}

fn file(model: &Model) -> Vec<u8> {
    model.iter().flat_map(|t| t.1.clone()).collect()
}

fn packs(root: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(root.join("packs")).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len())).collect()
}

fn intact(repository: &Repository) {
    let report = repository.verify(true, &task(2)).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

/// Bytes of the chunks that a snapshot's restore reads, and how many of them are deltas.
fn reads(repository: &Repository, snapshot: &Snapshot) -> (u64, usize) {
    let placement = repository.refresh().unwrap();
    let serving = placement.serve(&repository.reader(snapshot).unwrap().closure()).unwrap();
    let place = |(id, pack): (_, &_)| placement.places(id).find(|p| p.pack.name == *pack).unwrap().entry;
    let entries: Vec<_> = serving.pack_of.iter().map(place).collect();
    (entries.iter().map(|e| u64::from(e.encoded)).sum(), entries.iter().filter(|e| e.base.is_some()).count())
}

fn is_delta(snapshot: &Snapshot) -> bool {
    snapshot.body.required == ["delta"]
}

#[test]
fn a_sparse_update_costs_what_it_touched() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let mut model = vec![("<f4", floats(1, 2_000_000))];
    let first = save(&repository, "s", &model, CodecChoice::Auto, 2);
    assert!(!is_delta(&first));
    let mut saves = vec![];
    for version in 0..4 {
        touch(&mut model[0].1, version, 256);
        saves.push((save(&repository, "s", &model, CodecChoice::Auto, 2), file(&model)));
    }
    for (snapshot, file) in &saves {
        assert!(is_delta(snapshot));
        assert!(snapshot.body.bytes_stored * 20 < first.body.bytes_stored, "{}", snapshot.body.bytes_stored);
        assert!(exported(&repository, snapshot) == *file);
    }
    // The base outlives its version. It is deleted with the last version that needs it.
    repository.prune(Some(&Keep { last: Some(1), ..Keep::default() }), None, false, &task(1)).unwrap();
    let (newest, state) = saves.last().unwrap();
    assert!(exported(&repository, newest) == *state);
    intact(&repository);
    let other = vec![("<f4", floats(7, 2_000_000))];
    save(&repository, "s", &other, CodecChoice::Auto, 2);
    repository.prune(Some(&Keep { last: Some(1), ..Keep::default() }), None, false, &task(1)).unwrap();
    assert!(packs(root.path()).values().sum::<u64>() < first.body.bytes_stored * 11 / 10);
    intact(&repository);
}

#[test]
fn dense_steps_are_renewed_so_that_restores_read_little_more() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let mut model: Model = (0..3).map(|i| ("<f4", floats(i, 1 << 21))).collect();
    let whole = save(&repository, "s", &model, CodecChoice::Delta, 2);
    let planes = reads(&repository, &whole).0;
    for version in 0..6 {
        model.iter_mut().enumerate().for_each(|(i, t)| train(&mut t.1, version * 10 + i as u64, 1 << 16));
        let snapshot = save(&repository, "s", &model, CodecChoice::Delta, 2);
        assert!(exported(&repository, &snapshot) == file(&model));
        let (read, deltas) = reads(&repository, &snapshot);
        assert!(read * 2 <= planes * 3 + 60_000, "version {version} reads {read} where {planes} would do");
        assert!((9..=18).contains(&deltas), "version {version} has {deltas} deltas of 24 chunks");
        assert!(snapshot.body.bytes_stored * 100 < whole.body.bytes_stored * 90, "{}", snapshot.body.bytes_stored);
        // "auto" asks for more than that.
        let alone = open(&root.path().join(version.to_string()));
        assert!(!is_delta(&save(&alone, "s", &model, CodecChoice::Auto, 2)));
    }
    intact(&repository);
}

#[test]
fn automatic_choice_leaves_dense_steps_alone() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let mut model = vec![("<f4", floats(1, 1 << 19))];
    save(&repository, "s", &model, CodecChoice::Auto, 2);
    train(&mut model[0].1, 1, 1 << 17);
    assert!(!is_delta(&save(&repository, "s", &model, CodecChoice::Auto, 2)));
    train(&mut model[0].1, 2, 1 << 6);
    assert!(is_delta(&save(&repository, "s", &model, CodecChoice::Auto, 2)));
    assert!(!is_delta(&save(&repository, "t", &model, CodecChoice::Planes, 2)) || packs(root.path()).len() > 2);
}

#[test]
fn a_base_serves_eight_versions() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let mut model = vec![("<f4", floats(1, 100_000))];
    let mut new = vec![];
    for version in 0..20 {
        let snapshot = save(&repository, "s", &model, CodecChoice::Auto, 1);
        let entries = repository.refresh().unwrap().packs().flat_map(|p| p.entries.clone()).collect::<Vec<_>>();
        assert!(
            entries
                .iter()
                .filter(|e| e.base.is_some())
                .all(|e| entries.iter().any(|b| Some(b.id) == e.base && b.base.is_none()))
        );
        new.push(reads(&repository, &snapshot).1 > 0);
        touch(&mut model[0].1, version, 64);
    }
    let whole: Vec<_> = (0..20).filter(|&version| !new[version]).collect();
    assert_eq!(whole, [0, 9, 18]);
    intact(&repository);
}

#[test]
fn packs_do_not_depend_on_threads() {
    let contents = [1, 2, 5].map(|threads| {
        let root = tempfile::tempdir().unwrap();
        let repository = open(root.path());
        let mut model: Model = vec![("<f4", floats(1, 1 << 20)), ("<f4", floats(2, 1 << 20)), ("<f4", floats(3, 5000))];
        for version in 0..3 {
            save(&repository, "s", &model, CodecChoice::Delta, threads);
            train(&mut model[0].1, version, 1 << 16);
            touch(&mut model[1].1, version, 256);
            train(&mut model[2].1, version, 100);
        }
        packs(root.path())
    });
    assert!(contents[0].len() > 3);
    assert_eq!(contents[0], contents[1]);
    assert_eq!(contents[0], contents[2]);
}

/// Bases are found although a tensor is inserted, another changes its dtype, and the file is named after its epoch.
#[test]
fn bases_are_found_by_name() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let mut model: Model = vec![("<f4", floats(1, 1 << 19)), ("<f4", floats(2, 1 << 19))];
    let first = save(&repository, "s", &model, CodecChoice::Auto, 2);
    model.iter_mut().for_each(|t| touch(&mut t.1, 5, 256));
    model.push(("<f4", floats(3, 10)));
    model[1].0 = ">f4";
    let second = save(&repository, "s", &model, CodecChoice::Auto, 2);
    assert!(second.body.bytes_stored * 20 < first.body.bytes_stored);
    assert!(exported(&repository, &second) == file(&model));
    touch(&mut model[0].1, 7, 256);
    let third = save_as("m-3.h5", &repository, "s", &model, CodecChoice::Auto, 2);
    assert!(third.body.bytes_stored * 20 < first.body.bytes_stored);
    // Another series has no version to build on.
    touch(&mut model[0].1, 6, 256);
    let other = save(&repository, "t", &model, CodecChoice::Auto, 2);
    assert!(other.body.bytes_stored * 4 > first.body.bytes_stored);
}

/// Every word that a tensor can hold comes back: NaNs with their payload, both zeros, infinities.
#[test]
fn every_word_comes_back() {
    let special =
        [0u32, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_1234, 0xFFC0_0001, 0x7F80_0001, 1, 0x8000_0001, !0];
    for (dtype, size) in DTYPES {
        let root = tempfile::tempdir().unwrap();
        let repository = open(root.path());
        let mut bytes = floats(1, 60_000)[..240_000 / size * size].to_vec();
        for version in 0..3u64 {
            touch(&mut bytes, version, 96);
            let mut random = Random(version);
            for _ in 0..200 {
                let at = (random.next() % (bytes.len() as u64 / 4 - 1)) as usize * 4;
                bytes[at..at + 4].copy_from_slice(&special[(random.next() % 10) as usize].to_le_bytes());
            }
            let model = vec![(dtype, bytes.clone())];
            let snapshot = save(&repository, "s", &model, CodecChoice::Delta, 2);
            assert!(exported(&repository, &snapshot) == bytes, "{dtype}");
            assert_eq!(is_delta(&snapshot), version > 0, "{dtype}");
        }
        intact(&repository);
    }
}

fn pack_with(root: &Path, wanted: impl Fn(&pack::Entry) -> bool) -> std::path::PathBuf {
    let paths = packs(root).into_keys().map(|name| root.join("packs").join(name));
    let holds = |path: &std::path::PathBuf| {
        let file = std::fs::File::open(path).unwrap();
        pack::read_footer(&file, path).unwrap().1.iter().any(&wanted)
    };
    paths.into_iter().find(holds).unwrap()
}

#[test]
fn damage_is_named() {
    let root = tempfile::tempdir().unwrap();
    let repository = open(root.path());
    let mut model = vec![("<f4", floats(1, 20_000))];
    save(&repository, "s", &model, CodecChoice::Auto, 2);
    touch(&mut model[0].1, 1, 64);
    let snapshot = save(&repository, "s", &model, CodecChoice::Auto, 2);
    let deltas = pack_with(root.path(), |e| e.base.is_some());
    let file = std::fs::File::open(&deltas).unwrap();
    let entry = pack::read_footer(&file, &deltas).unwrap().1[0];
    let base = entry.base.unwrap();

    let good = std::fs::read(&deltas).unwrap();
    for bit in (0..entry.encoded as usize * 8).step_by(7) {
        let mut bad = good.clone();
        bad[entry.offset as usize + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&deltas, &bad).unwrap();
        let repository = Repository::open(root.path()).unwrap();
        let out = tempfile::tempdir().unwrap();
        // Some bits do not change the decoded bytes: those of the age, and those after the last symbol of a Huffman
        // code.
        match repository.reader(&snapshot).unwrap().export(out.path(), &task(1)) {
            Ok(paths) => assert!(std::fs::read(&paths[0]).unwrap() == self::file(&model)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        }
        assert!(!repository.verify(true, &task(1)).unwrap().problems.is_empty());
    }
    std::fs::write(&deltas, &good).unwrap();

    let whole = pack_with(root.path(), |e| e.id == base);
    let kept = std::fs::read(&whole).unwrap();
    let mut bad = kept.clone();
    bad[1000] ^= 1;
    std::fs::write(&whole, bad).unwrap();
    let opened = Repository::open(root.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = opened.reader(&snapshot).unwrap().export(out.path(), &task(1)).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.message().contains(&base.hex()), "{error}");
    // A save does not rely on it.
    touch(&mut model[0].1, 2, 64);
    let next = save(&opened, "s", &model, CodecChoice::Auto, 2);
    assert!(exported(&opened, &next) == self::file(&model));
    std::fs::remove_file(&whole).unwrap();
    let opened = Repository::open(root.path()).unwrap();
    let error = opened.reader(&snapshot).unwrap().export(out.path(), &task(1)).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.message().contains(&base.hex()), "{error}");
}

#[derive(Debug, Clone)]
enum Step {
    Touch(usize, u64),
    Train(usize, u64, u32),
    Replace(usize, u64),
    Save(bool, bool),
    Prune(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3usize, any::<u64>()).prop_map(|(t, seed)| Step::Touch(t, seed)),
        2 => (0..3usize, any::<u64>(), 0..24u32).prop_map(|(t, seed, reach)| Step::Train(t, seed, reach)),
        1 => (0..3usize, any::<u64>()).prop_map(|(t, seed)| Step::Replace(t, seed)),
        5 => (any::<bool>(), any::<bool>()).prop_map(|(series, delta)| Step::Save(series, delta)),
        1 => (1..4usize).prop_map(Step::Prune),
    ];
    prop::collection::vec(step, 4..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any saves, prunes and repacks, every kept snapshot can be read, and its packs are not much larger than its
    /// chunks.
    #[test]
    fn histories(steps in steps(), dtypes in prop::array::uniform3(0..DTYPES.len())) {
        let root = tempfile::tempdir().unwrap();
        let repository = open(root.path());
        let mut model: Model = dtypes.map(|d| (DTYPES[d].0, floats(d as u64, 12_000))).to_vec();
        let mut held: Vec<(Arc<Snapshot>, Vec<u8>)> = vec![];
        for step in steps {
            match step {
                Step::Touch(t, seed) => touch(&mut model[t].1, seed, 64),
                Step::Train(t, seed, log) => train(&mut model[t].1, seed, 1 << log),
                Step::Replace(t, seed) => model[t].1 = floats(seed, 12_000),
                Step::Save(series, delta) => {
                    let codec = if delta { CodecChoice::Delta } else { CodecChoice::Auto };
                    let snapshot = save(&repository, if series { "a" } else { "b" }, &model, codec, 2);
                    let (read, deltas) = reads(&repository, &snapshot);
                    let alone = tempfile::tempdir().unwrap();
                    let planes = save(&open(alone.path()), "s", &model, CodecChoice::Auto, 1);
                    prop_assert!(read * 2 <= planes.body.bytes_stored * 3 + 1000, "{read} {}", planes.body.bytes_stored);
                    prop_assert!(deltas == 0 || is_delta(&snapshot));
                    held.push((snapshot, file(&model)));
                }
                Step::Prune(last) => {
                    let keep = Keep { last: Some(last), ..Keep::default() };
                    let gone = repository.prune(Some(&keep), None, false, &task(1)).unwrap().snapshots;
                    held.retain(|(snapshot, _)| !gone.contains(&snapshot.number));
                }
            }
        }
        let repository = Repository::open(root.path()).unwrap();
        for (snapshot, file) in &held {
            prop_assert!(exported(&repository, snapshot) == *file);
        }
        intact(&repository);
    }
}

/// Prunes everything but the newest snapshot while a pack is read that was opened twice: for its footer, and to verify
/// it.
struct PruneAtRead {
    root: PathBuf,
    pack: PathBuf,
    opened: AtomicUsize,
}

impl Watcher for PruneAtRead {
    fn arrive(&self, call: &Call<'_>) {
        if *call == Call::Open(&self.pack) {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        let twice = || self.opened.compare_exchange(2, 9, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if *call == Call::Read(&self.pack) && twice() {
            let keep = Keep { last: Some(1), ..Keep::default() };
            assert_eq!(open(&self.root).prune(Some(&keep), None, false, &task(1)).unwrap().packs, 2);
        }
    }

    fn before(&self, _call: &Call<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn after(&self, _call: &Call<'_>) {}
}

#[test]
fn a_base_that_is_pruned_while_its_delta_is_verified_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open(folder.path());
    let packs = || {
        let entries = std::fs::read_dir(folder.path().join("packs")).unwrap();
        entries.map(|e| e.unwrap().path()).collect::<std::collections::BTreeSet<_>>()
    };
    let mut model: Model = vec![("<f4", floats(1, 100_000))];
    save(&repository, "s", &model, CodecChoice::Auto, 1);
    let first = packs();
    touch(&mut model[0].1, 2, 128);
    save(&repository, "s", &model, CodecChoice::Delta, 1);
    let delta = packs().difference(&first).next().unwrap().clone();
    save(&repository, "s", &vec![("<f4", floats(9, 100_000))], CodecChoice::Planes, 1);
    let watcher = PruneAtRead { root: folder.path().to_owned(), pack: delta, opened: AtomicUsize::new(0) };
    let watcher = Arc::new(watcher);
    let _watch = watch(folder.path(), Arc::clone(&watcher) as Arc<dyn Watcher>);
    let report = open(folder.path()).verify(true, &task(1)).unwrap();
    assert!(watcher.opened.load(Ordering::Relaxed) >= 9);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
