//! Files that are open at once: so many that few are opened twice, and fewer than any system allows.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

/// A process may often have 1024, and needs some for itself; a state may have a million files.
pub(crate) const MOST: usize = 128;

/// Open files under their keys.
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
    /// The file of this key, opened where it is not open.
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
