//! A forked child keeps no lock of its parent, whatever the threads of the parent are doing. It is a test binary of its
//! own, because a fork also copies what other tests in the process have open.
#![cfg(unix)]
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use lamina_core::{Claim, close_inherited_locks, fork_begins, fork_ended};

/// Forks a child. When this returns, the child has closed its lock files. It lives until it is killed.
fn fork_child() -> libc::pid_t {
    let (mut told, tells) = std::io::pipe().unwrap();
    fork_begins();
    // SAFETY: the child allocates nothing, uses only locks that this thread holds, and never returns.
    let child = unsafe { libc::fork() };
    if child == 0 {
        close_inherited_locks();
        // SAFETY: one byte of a constant is written to a descriptor that is open.
        unsafe { libc::write(tells.as_raw_fd(), [0u8].as_ptr().cast(), 1) };
        loop {
            // SAFETY: waits for the signal that ends the child.
            unsafe { libc::pause() };
        }
    }
    fork_ended();
    assert!(child > 0);
    told.read_exact(&mut [0]).unwrap();
    child
}

fn end(child: libc::pid_t) {
    // SAFETY: `child` was forked here and has not been waited for.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

#[test]
fn a_fork_amid_locks_that_come_and_go_inherits_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    drop(Claim::take(&path).unwrap());
    for round in 0..300 {
        let (ready, ended) = (Barrier::new(2), AtomicBool::new(false));
        let child = std::thread::scope(|scope| {
            scope.spawn(|| {
                ready.wait();
                while !ended.load(Ordering::Relaxed) {
                    drop(Claim::take(&path).unwrap());
                }
            });
            ready.wait();
            let child = fork_child();
            ended.store(true, Ordering::Relaxed);
            child
        });
        let is_free = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        end(child);
        assert!(is_free, "the child of round {round} has the lock");
    }
}
