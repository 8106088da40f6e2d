//! Chunks in packs: where each one is, how it is read, and how packs are written and checked.

pub(crate) mod check_pack;
pub(crate) mod closure;
pub(crate) mod pack_writer;
pub(crate) mod placement;
pub(crate) mod read;
