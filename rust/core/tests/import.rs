//! Import: exactly the snapshot is imported, or nothing. The directory that it comes from may be hostile in any way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_core::internals::session::Session;
use lamina_core::{
    Body, CodecChoice, Error, ErrorKind, FileSpec, Keep, Layout, MemorySource, Repository, Result, Snapshot, Task,
    TensorSpec, Want,
};
use tempfile::TempDir;

fn task(threads: usize) -> Task<'static> {
    Task::new(threads).unwrap()
}
const FLOATS: usize = 6000;

/// Two tensors with a chunk each. A step changes the last bits of the first one; from 100 on, of both.
fn state(step: u32) -> Vec<u8> {
    let value = |i: u32| {
        (f32::sin(i as f32) + 3.0).to_bits() + if i < FLOATS as u32 || step >= 100 { step * (i % 7) } else { 0 }
    };
    (0..2 * FLOATS as u32).flat_map(|i| value(i).to_le_bytes()).collect()
}

fn save(repository: &Repository, step: u32, codec: CodecChoice) -> Arc<Snapshot> {
    let bytes = state(step);
    let tensor = |i: usize| TensorSpec {
        name: format!("t{i}"),
        dtype: "<f4".into(),
        shape: vec![FLOATS as u64],
        role: "weights".into(),
        offset: (i * FLOATS * 4) as u64,
    };
    let specs = [FileSpec { path: "f".into(), size: bytes.len() as u64, tensors: vec![tensor(0), tensor(1)] }];
    let layout = Layout::new(&specs, &[]).unwrap();
    let (first, second) = bytes.split_at(FLOATS * 4);
    let source = MemorySource { tensors: vec![vec![first, second], vec![]], literals: vec![&[]] };
    let body: Body = serde_json::from_str(&format!(
        r#"{{"created_at":"then","series":"s","kind":"weights","epoch":{step},"logs":{{"loss":0.5}},"later":[1]}}"#
    ))
    .unwrap();
    repository.save(body, &layout, &source, codec, &task(1)).unwrap()
}

fn new() -> (TempDir, Repository) {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(root.path(), "").unwrap();
    (root, repository)
}

/// The directory that a download of the snapshot's artifact makes.
fn artifact(repository: &Repository, snapshot: &Snapshot) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("lamina.json"), repository.snapshot_bytes(snapshot.number).unwrap()).unwrap();
    std::fs::create_dir(folder.path().join("packs")).unwrap();
    for (name, _) in repository.packs_of(snapshot).unwrap() {
        let file = format!("packs/{}.pack", name.hex());
        std::fs::copy(repository.root().join(&file), folder.path().join(&file)).unwrap();
    }
    folder
}

fn import(repository: &Repository, folder: &Path) -> Result<(Arc<Snapshot>, bool)> {
    repository.import(folder, None, &task(2)).map(|done| (done.snapshot, done.new))
}

fn read(repository: &Repository, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let mut bytes = vec![0; FLOATS * 8];
    let reader = repository.reader(snapshot)?;
    let offset = reader.structure.files[0].extents[0].0;
    reader.read(vec![Want { offset, to: &mut bytes }], &task(1))?;
    Ok(bytes)
}

fn whole(repository: &Repository) {
    let report = repository.verify(true, &task(1)).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn packs(root: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<_> = std::fs::read_dir(root.join("packs")).unwrap().map(|e| e.unwrap().path()).collect();
    packs.sort();
    packs
}

#[test]
fn the_very_snapshot_comes_once() {
    let ((_a, ours), (_b, theirs)) = (new(), new());
    save(&ours, 7, CodecChoice::Auto);
    let snapshot = save(&theirs, 1, CodecChoice::Auto);
    let folder = artifact(&theirs, &snapshot);
    let (brought, new) = import(&ours, folder.path()).unwrap();
    assert!(new);
    assert_eq!((&brought.id, brought.number), (&snapshot.id, 2));
    assert_eq!(ours.snapshot_bytes(2).unwrap(), theirs.snapshot_bytes(1).unwrap());
    assert_eq!(read(&ours, &brought).unwrap(), state(1));
    let before = packs(ours.root());
    let (again, new) = import(&ours, folder.path()).unwrap();
    assert!(!new && again.number == 2 && packs(ours.root()) == before);
    assert_eq!(ours.resolve(Some("s"), &snapshot.id[..8]).unwrap().number, 2);
    // The next save uses its chunks.
    assert_eq!(save(&ours, 1, CodecChoice::Auto).body.bytes_new, 0);
    whole(&ours);
}

#[test]
fn another_series_gives_another_id_and_no_new_bytes() {
    let ((_a, ours), (_b, theirs)) = (new(), new());
    let snapshot = save(&theirs, 1, CodecChoice::Auto);
    let folder = artifact(&theirs, &snapshot);
    import(&ours, folder.path()).unwrap();
    for new in [true, false] {
        let done = ours.import(folder.path(), Some("other"), &task(1)).unwrap();
        assert_eq!((done.new, done.bytes, done.snapshot.number), (new, 0, 2));
        assert_ne!(done.snapshot.id, snapshot.id);
        assert_eq!(done.snapshot.body.other["later"], serde_json::json!([1]));
    }
    assert_eq!(ours.import(folder.path(), Some(""), &task(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// With any bit flipped, or cut anywhere: no snapshot is imported, and nothing that a later save could use.
#[test]
fn no_lie_comes_in() {
    let (_b, theirs) = new();
    save(&theirs, 1, CodecChoice::Raw);
    let snapshot = save(&theirs, 2, "delta".parse().unwrap());
    let folder = artifact(&theirs, &snapshot);
    let files: Vec<PathBuf> = packs(folder.path()).into_iter().chain([folder.path().join("lamina.json")]).collect();
    assert!(files.len() > 2, "deltas and their bases");
    let refused = |what: &str| {
        let (_a, ours) = new();
        let error = import(&ours, folder.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{what}: {error}");
        assert!(ours.snapshots().unwrap().is_empty(), "{what}");
        whole(&ours);
        assert!(save(&ours, 2, CodecChoice::Auto).body.bytes_new > 0 || packs(ours.root()).len() > 1, "{what}");
        whole(&ours);
    };
    for file in &files {
        let good = std::fs::read(file).unwrap();
        let steps = (good.len() * 8 / 40).max(1);
        for bit in (0..good.len() * 8).step_by(steps) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(file, &bad).unwrap();
            refused(&format!("{} with bit {bit} flipped", file.display()));
        }
        std::fs::write(file, &good[..good.len() / 2]).unwrap();
        refused(&format!("half of {}", file.display()));
        std::fs::remove_file(file).unwrap();
        let (_a, ours) = new();
        let error: Error = import(&ours, folder.path()).map(|_| ()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound), "{error}");
        std::fs::write(file, &good).unwrap();
    }
    let (_a, ours) = new();
    let (brought, _) = import(&ours, folder.path()).unwrap();
    assert_eq!(read(&ours, &brought).unwrap(), state(2));
    whole(&ours);
}

/// A pack with the right name, footer and digest, but a delta in it does not decode to the bytes of its id.
#[test]
fn a_delta_that_nobody_can_check_is_not_kept() {
    let (_b, theirs) = new();
    let first = save(&theirs, 1, CodecChoice::Raw);
    save(&theirs, 2, "delta".parse().unwrap());
    // The artifact of the first snapshot, with the pack of deltas added.
    let folder = artifact(&theirs, &first);
    for pack in packs(theirs.root()) {
        std::fs::copy(&pack, folder.path().join("packs").join(pack.file_name().unwrap())).unwrap();
    }
    let (_a, ours) = new();
    import(&ours, folder.path()).unwrap();
    assert_eq!(packs(ours.root()).len(), theirs.packs_of(&first).unwrap().len(), "only what serves the snapshot");
    whole(&ours);
}

#[test]
fn a_condemned_pack_is_not_built_on() {
    let ((_a, ours), (_b, theirs)) = (new(), new());
    let snapshot = save(&theirs, 1, CodecChoice::Auto);
    let folder = artifact(&theirs, &snapshot);
    import(&ours, folder.path()).unwrap();
    save(&ours, 100, CodecChoice::Raw);
    let under_way = Session::begin(ours.root()).unwrap();
    let keep = Keep { last: Some(1), ..Keep::default() };
    assert!(ours.prune(Some(&keep), None, false, &task(1)).unwrap().waiting > 0);
    let (brought, new) = import(&ours, folder.path()).unwrap();
    assert!(new);
    drop(under_way);
    ours.prune(None, None, false, &task(1)).unwrap();
    assert_eq!(read(&ours, &brought).unwrap(), state(1));
    whole(&ours);
}

#[test]
fn damage_of_the_repository_is_named() {
    let ((_a, ours), (_b, theirs)) = (new(), new());
    save(&ours, 1, CodecChoice::Raw);
    let folder = artifact(&theirs, &save(&theirs, 1, CodecChoice::Raw));
    for pack in packs(ours.root()) {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    let error = import(&ours, folder.path()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("repair it first"), "{error}");
}
