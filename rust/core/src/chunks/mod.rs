//! Chunks in packs: where each one stands.

pub mod placement;
