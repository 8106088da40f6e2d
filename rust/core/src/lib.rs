//! The engine of lamina: it cuts tensors into chunks, deduplicates, encodes and packs them, and gives them back verified.
//!
//! It knows bytes, not Keras, and has no idea that Python exists. `docs/format.md` defines every byte that it writes.

pub mod codec;
pub mod error;
pub mod kernels;
pub mod tensor;

pub use error::{Error, ErrorKind, Result};
