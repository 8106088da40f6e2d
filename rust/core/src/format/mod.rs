//! The bytes of docs/format.md: every file that lamina writes is laid out, written and checked here.

pub(crate) mod digest;
pub(crate) mod dtype;
pub mod envelope;
pub(crate) mod limits;
pub mod pack;
pub(crate) mod snapshot;
pub(crate) mod structure;
pub(crate) mod tree;
pub(crate) mod words;
