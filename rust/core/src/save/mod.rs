//! Saving: from a state to packs and the body of a snapshot.

pub(crate) mod bases;
mod budget;
mod chunk;
mod literals;
mod repack;
mod tree;
pub(crate) mod writer;
