//! A state with more files than a process may open. It is a test binary of its own, because it lowers the limit of its
//! process.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use lamina_core::{Body, CodecChoice, FileSource, FileSpec, Layout, Repository, Task};

const FILES: usize = 400;

#[allow(unsafe_code, reason = "there is no other way to set a limit")]
fn allow_open_files(most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the call only reads the structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

#[test]
fn more_files_than_may_be_open_are_saved_and_exported() {
    allow_open_files(300);
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let path = |i: usize| format!("part{}/file{i}.bin", i % 3);
    let bytes = |i: usize| format!("the bytes of file {i}").repeat(1 + i % 5).into_bytes();
    (0..3).for_each(|i| std::fs::create_dir_all(from.join(format!("part{i}"))).unwrap());
    (0..FILES).for_each(|i| std::fs::write(from.join(path(i)), bytes(i)).unwrap());
    let spec = |i| FileSpec { path: path(i), size: bytes(i).len() as u64, tensors: vec![] };
    let specs: Vec<_> = (0..FILES).map(spec).collect();
    let repository = Repository::open_or_create(&folder.path().join("repo"), "2026-01-01T00:00:00.000Z").unwrap();
    let body: Body = serde_json::from_str(r#"{"created_at":"","series":"s","kind":"files"}"#).unwrap();
    let source = FileSource::open(&specs, (0..FILES).map(|i| from.join(path(i))).collect()).unwrap();
    let layout = Layout::new(&specs, &[]).unwrap();
    let task = Task::new(3).unwrap();
    let snapshot = repository.save(body.clone(), &layout, &source, CodecChoice::Auto, &task).unwrap();
    let reader = repository.reader(&snapshot).unwrap();
    for _ in 0..2 {
        assert_eq!(reader.export(&to, &task).unwrap().len(), FILES);
        (0..FILES).for_each(|i| assert_eq!(std::fs::read(to.join(path(i))).unwrap(), bytes(i)));
        let names = |folder| std::fs::read_dir(folder).unwrap().count();
        assert_eq!((names(&to), names(&to.join("part0"))), (3, FILES.div_ceil(3)));
    }
    // A file that was replaced since it was opened is another state, even if its size is the same.
    let source = FileSource::open(&specs, (0..FILES).map(|i| from.join(path(i))).collect()).unwrap();
    let (replaced, old) = (from.join(path(5)), std::fs::metadata(from.join(path(5))).unwrap());
    let other = folder.path().join("other");
    std::fs::write(&other, vec![b'x'; old.len() as usize]).unwrap();
    std::fs::File::options().write(true).open(&other).unwrap().set_modified(old.modified().unwrap()).unwrap();
    std::fs::rename(&other, &replaced).unwrap();
    let error = repository.save(body, &layout, &source, CodecChoice::Auto, &task).unwrap_err();
    assert!(error.message().contains("changed while it was being saved"), "{error}");
    assert_eq!(repository.snapshots().unwrap().len(), 1);
}
