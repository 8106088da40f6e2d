//! Chunks in packs: where each one stands, how it is read, and how packs are written and checked.

pub(crate) mod check_pack;
pub mod closure;
pub(crate) mod pack_writer;
pub mod placement;
pub mod read;
