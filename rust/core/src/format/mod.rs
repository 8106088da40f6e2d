//! The bytes that docs/format.md defines: how every file is laid out, written and checked.

pub(crate) mod digest;
pub(crate) mod dtype;
pub mod envelope;
pub(crate) mod limits;
pub mod pack;
pub(crate) mod snapshot;
pub(crate) mod structure;
pub(crate) mod tree;
pub(crate) mod words;
