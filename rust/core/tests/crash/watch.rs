//! Watchers: one records changes and makes calls fail, the other only skips flushes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lamina_core::internals::{Call, faults::Watch, faults::Watcher, faults::watch};

use crate::disk::Change;

/// A call that fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    /// Index of the call.
    pub(crate) at: usize,
    pub(crate) errno: i32,
    /// Whether all later calls fail that change something, as on a full or read-only disk.
    pub(crate) lasting: bool,
}

#[derive(Default)]
struct State {
    calls: usize,
    changes: Vec<Change>,
    refusal: Option<Refusal>,
}

pub(crate) struct Recorder {
    root: PathBuf,
    state: Mutex<State>,
}

impl Recorder {
    pub(crate) fn watch(root: &Path, refusal: Option<Refusal>) -> (Arc<Self>, Watch) {
        let state = Mutex::new(State { refusal, ..State::default() });
        let recorder = Arc::new(Self { root: root.to_owned(), state });
        let watch = watch(root, Arc::clone(&recorder) as Arc<dyn Watcher>);
        (recorder, watch)
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().unwrap().changes.len()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state.lock().unwrap().changes.clone()
    }
}

fn changes_something(call: &Call<'_>) -> bool {
    !matches!(call, Call::Open(_) | Call::Look(_) | Call::List(_) | Call::Read(_) | Call::Lock(_))
}

impl Watcher for Recorder {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let index = state.calls;
        state.calls += 1;
        match state.refusal {
            Some(r) if r.at == index || r.lasting && index > r.at && changes_something(call) => {
                Err(io::Error::from_raw_os_error(r.errno))
            }
            _ => Ok(()),
        }
    }

    fn after(&self, call: &Call<'_>) {
        self.state.lock().unwrap().changes.extend(Change::of(call, &self.root));
    }

    fn pretends(&self, call: &Call<'_>) -> bool {
        matches!(call, Call::Sync(_) | Call::SyncDir(_))
    }
}

struct Quiet;

impl Watcher for Quiet {
    fn before(&self, _call: &Call<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, _call: &Call<'_>) {}

    fn pretends(&self, call: &Call<'_>) -> bool {
        matches!(call, Call::Sync(_) | Call::SyncDir(_))
    }
}

/// Skips flushes below `root`.
pub(crate) fn quiet(root: &Path) -> Watch {
    watch(root, Arc::new(Quiet))
}
