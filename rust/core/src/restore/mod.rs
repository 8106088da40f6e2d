//! Restoring: from a snapshot to the bytes of its state, or to its files.

mod export;
pub(crate) mod reader;
