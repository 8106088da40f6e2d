//! A save: from a state to packs and a snapshot body.

pub mod bases;
mod chunk;
mod filling;
mod literals;
mod repack;
mod tree;
pub mod writer;
