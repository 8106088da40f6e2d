//! A cache of open files: large enough that few files are opened twice, and smaller than the limit of any operating
//! system.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

/// The most open files. A process may often have 1024, and needs some for other things; a state may have a million
/// files.
pub(crate) const MOST: usize = 128;

/// Open files, by key.
#[derive(Debug)]
pub(crate) struct OpenFiles<K> {
    open: Mutex<HashMap<K, Arc<File>>>,
}

impl<K> Default for OpenFiles<K> {
    fn default() -> Self {
        Self { open: Mutex::default() }
    }
}

impl<K: Eq + Hash> OpenFiles<K> {
    /// The file of this key. `open` opens it if it is not open.
    pub(crate) fn get(&self, key: K, open: impl FnOnce() -> Result<File>) -> Result<Arc<File>> {
        let mut files = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&key) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(open()?);
        if files.len() >= MOST {
            files.clear();
        }
        files.insert(key, Arc::clone(&file));
        Ok(file)
    }
}
