//! Watching and refusing calls to the file system below a folder. For tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::call::Call;

/// Watches the calls to the file system below a folder.
pub trait Watcher: Send + Sync {
    /// Called when a thread is about to make a call. It may block the thread.
    fn arrive(&self, _call: &Call<'_>) {}

    /// Called before a call.
    ///
    /// # Errors
    /// An error makes the call fail with it; the call is not made.
    fn before(&self, call: &Call<'_>) -> io::Result<()>;

    /// Called after a call that succeeded. No other call below the folder was made since `before`.
    fn after(&self, call: &Call<'_>);

    /// How many bytes, of `bytes`, a write may write.
    fn limit(&self, bytes: usize) -> usize {
        bytes
    }

    /// Called after a read that returned so many bytes.
    fn has_read(&self, _bytes: usize) {}

    /// Whether a flush or a lock does nothing and reports success.
    fn pretends(&self, _call: &Call<'_>) -> bool {
        false
    }
}

struct Watched {
    root: PathBuf,
    watcher: Arc<dyn Watcher>,
    order: Mutex<()>,
}

static WATCHED: RwLock<Vec<Arc<Watched>>> = RwLock::new(vec![]);

/// A running watch. Dropping it ends the watch.
pub struct Watch(Arc<Watched>);

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.write().unwrap_or_else(PoisonError::into_inner).retain(|w| !Arc::ptr_eq(w, &self.0));
    }
}

/// Lets `watcher` watch all calls below `root`, until the returned value is dropped.
pub fn watch(root: &Path, watcher: Arc<dyn Watcher>) -> Watch {
    let watched = Arc::new(Watched { root: root.to_owned(), watcher, order: Mutex::default() });
    WATCHED.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&watched));
    Watch(watched)
}

fn find(path: &Path) -> Option<Arc<Watched>> {
    WATCHED.read().unwrap_or_else(PoisonError::into_inner).iter().find(|w| path.starts_with(&w.root)).cloned()
}

fn path<'a>(call: &Call<'a>) -> &'a Path {
    match *call {
        Call::CreateDir(path)
        | Call::Create(path)
        | Call::Open(path)
        | Call::Look(path)
        | Call::List(path)
        | Call::Read(path)
        | Call::Write { path, .. }
        | Call::SetLength { path, .. }
        | Call::Sync(path)
        | Call::SyncDir(path)
        | Call::Rename { to: path, .. }
        | Call::Link { to: path, .. }
        | Call::Remove(path)
        | Call::RemoveDir(path)
        | Call::Lock(path) => path,
    }
}

/// Makes a call, watched by its watcher if there is one.
pub(super) fn watched<T>(call: &Call<'_>, action: &mut dyn FnMut() -> io::Result<T>) -> io::Result<T> {
    let Some(watched) = find(path(call)) else { return action() };
    watched.watcher.arrive(call);
    let _order = watched.order.lock().unwrap_or_else(PoisonError::into_inner);
    watched.watcher.before(call)?;
    let result = action();
    if result.is_ok() {
        watched.watcher.after(call);
    }
    result
}

pub(super) fn pretends(call: &Call<'_>) -> bool {
    find(path(call)).is_some_and(|w| w.watcher.pretends(call))
}

pub(super) fn has_read(path: &Path, bytes: usize) {
    if let Some(watched) = find(path) {
        watched.watcher.has_read(bytes);
    }
}

pub(super) fn limit(path: &Path, bytes: usize) -> usize {
    find(path).map_or(bytes, |w| w.watcher.limit(bytes))
}
