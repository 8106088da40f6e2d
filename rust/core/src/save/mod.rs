//! A save: from a state to packs and a snapshot body.

pub(crate) mod bases;
mod budget;
mod chunk;
mod literals;
mod repack;
mod tree;
pub(crate) mod writer;
