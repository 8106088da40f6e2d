//! The engine of lamina: it cuts tensors into chunks, deduplicates, encodes and packs them, and gives them back verified.
//!
//! It knows bytes, not Keras, and has no idea that Python exists. `docs/format.md` defines every byte that it writes.

pub mod chunks;
pub mod codec;
pub mod error;
pub mod files;
pub mod format;
pub mod kernels;
pub mod layout;
pub mod repository;
pub mod restore;
pub mod save;
pub mod storage;
pub mod task;

pub use error::{Error, ErrorKind, Result};
