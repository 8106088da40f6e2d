//! File systems that lack something: NFS without its lock service, a synchronised drive, a bucket that is mounted as a
//! folder. A save succeeds or says why it does not, prune and repair refuse to run without locks, and nothing is lost.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_core::internals::{Call, faults::Watch, faults::Watcher, faults::watch};
use lamina_core::{ErrorKind, Keep, Repository};

use crate::world::{Model, SERIES, scratch, task, whole};
use crate::{A, B, C};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lack {
    /// A lock is an error.
    Locks,
    /// A lock is always granted.
    Exclusion,
    Links,
    FolderFlush,
    /// A rename to an existing name fails.
    RenameOver,
}

const ALL: [Lack; 5] = [Lack::Locks, Lack::Exclusion, Lack::Links, Lack::FolderFlush, Lack::RenameOver];

struct Poor(Vec<Lack>);

impl Watcher for Poor {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let (lack, errno) = match call {
            Call::Lock(_) => (Lack::Locks, libc::ENOLCK),
            Call::Link { .. } => (Lack::Links, libc::EPERM),
            Call::SyncDir(_) => (Lack::FolderFlush, libc::EINVAL),
            Call::Rename { to, .. } if to.exists() => (Lack::RenameOver, libc::EEXIST),
            _ => return Ok(()),
        };
        if self.0.contains(&lack) { Err(io::Error::from_raw_os_error(errno)) } else { Ok(()) }
    }

    fn after(&self, _call: &Call<'_>) {}

    fn pretends(&self, call: &Call<'_>) -> bool {
        match call {
            Call::Lock(_) => self.0.contains(&Lack::Exclusion),
            Call::Sync(_) | Call::SyncDir(_) => true,
            _ => false,
        }
    }
}

fn poor(root: &Path, lacks: &[Lack]) -> Watch {
    watch(root, Arc::new(Poor(lacks.to_vec())))
}

/// Each fault alone, and all of them together.
fn kinds() -> Vec<Vec<Lack>> {
    ALL.iter().map(|lack| vec![*lack]).chain([ALL.to_vec()]).collect()
}

fn saved(root: &Path, models: &[Model]) -> (Repository, HashMap<i64, Vec<u8>>) {
    let repository = Repository::open_or_create(root, "").unwrap();
    for (epoch, model) in models.iter().enumerate() {
        model.save(&repository, epoch as i64).unwrap();
    }
    (repository, models.iter().enumerate().map(|(epoch, m)| (epoch as i64, m.file())).collect())
}

#[test]
fn saves_go_on_where_the_file_system_lacks_something() {
    for lacks in kinds() {
        let folder = scratch();
        let _watch = poor(folder.path(), &lacks);
        let (repository, contents) = saved(folder.path(), &[A, B, A, C]);
        assert_eq!(repository.snapshots().unwrap().len(), 4, "{lacks:?}");
        whole(&repository, &contents).unwrap_or_else(|problem| panic!("{lacks:?}: {problem}"));
    }
}

#[test]
fn an_alias_moves_or_stays() {
    for lacks in kinds() {
        let folder = scratch();
        let _watch = poor(folder.path(), &lacks);
        let (repository, _) = saved(folder.path(), &[A, B]);
        let snapshots = repository.snapshots().unwrap();
        repository.set_alias(&snapshots[0], "x").unwrap();
        let moved = repository.set_alias(&snapshots[1], "x");
        let expected = if lacks.contains(&Lack::RenameOver) {
            assert_eq!(moved.unwrap_err().kind(), ErrorKind::Io, "{lacks:?}");
            &snapshots[0]
        } else {
            moved.unwrap();
            &snapshots[1]
        };
        assert_eq!(repository.resolve(Some(SERIES), "x").unwrap().id, expected.id, "{lacks:?}");
    }
}

#[test]
fn prune_refuses_without_working_locks() {
    for lacks in kinds() {
        let folder = scratch();
        let _watch = poor(folder.path(), &lacks);
        let (repository, contents) = saved(folder.path(), &[A, B, C]);
        let keep = Keep { last: Some(1), ..Keep::default() };
        let pruned = repository.prune(Some(&keep), None, false, &task());
        let left = repository.snapshots().unwrap().len();
        if lacks.contains(&Lack::Locks) || lacks.contains(&Lack::Exclusion) {
            assert_eq!(pruned.unwrap_err().kind(), ErrorKind::Unsupported, "{lacks:?}");
            assert_eq!(left, 3, "{lacks:?}");
        } else if lacks == [Lack::RenameOver] {
            // The list of condemned packs cannot be replaced, so no pack is deleted.
            assert_eq!(pruned.unwrap_err().kind(), ErrorKind::Io);
        } else {
            pruned.unwrap_or_else(|e| panic!("{lacks:?}: {e}"));
            assert_eq!(left, 1, "{lacks:?}");
        }
        whole(&repository, &contents).unwrap_or_else(|problem| panic!("{lacks:?}: {problem}"));
    }
}

fn a_pack(root: &Path) -> PathBuf {
    let mut packs: Vec<_> = std::fs::read_dir(root.join("packs")).unwrap().map(|e| e.unwrap().path()).collect();
    packs.sort();
    packs.into_iter().find(|p| p.extension().is_some_and(|e| e == "pack")).unwrap()
}

#[test]
fn a_repair_keeps_what_was_damaged_or_refuses() {
    for lacks in kinds() {
        let (folder, other) = (scratch(), scratch());
        let (repository, contents) = saved(folder.path(), &[A]);
        let pack = a_pack(folder.path());
        let good = std::fs::read(&pack).unwrap();
        std::fs::create_dir(other.path().join("packs")).unwrap();
        std::fs::write(other.path().join("packs").join(pack.file_name().unwrap()), &good).unwrap();
        let mut bad = good.clone();
        bad[20] ^= 1;
        std::fs::write(&pack, &bad).unwrap();

        let _watch = poor(folder.path(), &lacks);
        let suspects = repository.damaged_packs(None, &task()).unwrap();
        assert_eq!(suspects.len(), 1);
        let repaired = repository.repair(suspects, &[other.path().to_owned()], &task());
        if lacks == [Lack::Links] || lacks == [Lack::FolderFlush] {
            repaired.unwrap_or_else(|e| panic!("{lacks:?}: {e}"));
            whole(&repository, &contents).unwrap_or_else(|problem| panic!("{lacks:?}: {problem}"));
            let aside = folder.path().join("quarantine/packs").join(pack.file_name().unwrap());
            assert_eq!(std::fs::read(aside).unwrap(), bad, "{lacks:?}");
        } else {
            let kind = if lacks == [Lack::RenameOver] { ErrorKind::Io } else { ErrorKind::Unsupported };
            assert_eq!(repaired.unwrap_err().kind(), kind, "{lacks:?}");
            assert_eq!(std::fs::read(&pack).unwrap(), bad, "{lacks:?}");
        }
    }
}
