//! A save: from a state to packs and a snapshot body.

pub mod bases;
pub mod writer;
