//! The engine of lamina: it cuts tensors into chunks, deduplicates, encodes and packs them, and gives them back verified.
//!
//! It knows bytes, not Keras, and has no idea that Python exists. `docs/format.md` defines every byte that it writes.

pub mod base;
pub mod chunker;
pub mod codec;
pub mod digest;
pub mod error;
pub mod fork;
pub mod format;
pub mod image;
pub mod import;
pub mod kernels;
pub mod losses;
pub mod md5;
pub mod pack;
pub mod pipeline;
pub mod placement;
pub mod progress;
pub mod reader;
pub mod repair;
pub mod repository;
pub mod retention;
pub mod sample;
pub mod session;
pub mod snapshot;
pub mod source;
pub mod storage;
pub mod temporary;
pub mod tensor;
pub mod verify;
mod writeback;
pub mod writer;

pub use error::{Error, ErrorKind, Result};
