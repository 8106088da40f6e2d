//! A restore: from a snapshot to the bytes of its state.

pub mod reader;
