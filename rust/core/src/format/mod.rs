//! The bytes of docs/format.md: every file that lamina writes is laid out, written and checked here.

pub mod digest;
pub mod dtype;
pub mod envelope;
pub mod limits;
pub mod pack;
pub mod snapshot;
pub mod structure;
pub mod tree;
pub(crate) mod words;
