//! A repair that is interrupted anywhere can be started again, and damaged bytes are never deleted.

use std::path::{Path, PathBuf};

use lamina_core::Repository;

use crate::chance::Chance;
use crate::disk::{Fate, Tree, plant};
use crate::watch::quiet;
use crate::world::{Op, World, check, scratch, task};
use crate::{A, B, world};

/// Damages the first file of a folder. Returns its bytes.
fn damage(folder: &Path, extension: &str) -> Vec<u8> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == extension));
    files.sort();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();
    bytes
}

fn repair(root: &Path, sources: &[PathBuf]) {
    let repository = Repository::open(root).unwrap();
    let suspects = repository.damaged_packs(None, &task()).unwrap();
    let repaired = repository.repair(suspects, sources, &task()).unwrap();
    assert!(repaired.lost.is_empty() && repaired.problems.is_empty(), "{repaired:?}");
}

fn crashed(world: &World, changes: usize, fate: &mut Fate, source: &World, damaged: &[Vec<u8>]) {
    let tree: Tree = world.disk_at(changes).after_crash(fate);
    for bytes in damaged {
        assert!(tree.values().flatten().any(|found| found == bytes), "damaged bytes are gone after {changes} changes");
    }
    let folder = scratch();
    plant(&tree, folder.path());
    {
        let _watch = quiet(folder.path());
        repair(folder.path(), &[source.root().to_owned()]);
    }
    check(folder.path(), &world.promise_at(changes), &world.contents)
        .unwrap_or_else(|problem| panic!("repair, crash after {changes} changes: {problem}"));
}

#[test]
fn a_repair_may_crash_at_every_point() {
    let source = world(&[Op::Create, Op::Save(A), Op::Save(B), Op::SetAlias("x")]).settled();
    let mut world = source.settled();
    let damaged = [damage(&world.root().join("packs"), "pack"), damage(&world.root().join("snapshots"), "json")];
    world.rescan();
    repair(world.root(), &[source.root().to_owned()]);
    assert!(world.changes() > 10, "the repair goes through the storage layer");
    for changes in 0..=world.changes() {
        for mut fate in [Fate::Nothing, Fate::Everything, Fate::NamesOnly, Fate::BytesOnly] {
            crashed(&world, changes, &mut fate, &source, &damaged);
        }
        for seed in 0..6 {
            let fate = &mut Fate::Random(Chance::new(seed * 1000 + changes as u64));
            crashed(&world, changes, fate, &source, &damaged);
        }
    }
}
