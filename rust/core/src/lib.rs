//! The engine of lamina: it cuts tensors into chunks, deduplicates, encodes and packs them, and gives them back
//! verified.
//!
//! It knows bytes, not Keras, and has no idea that Python exists. `docs/format.md` defines every byte that it writes.
//!
//! The public items are those that the Python binding needs. [`internals`] has those that only the integration tests
//! and the benchmarks of this crate need.

mod chunks;
mod codec;
mod error;
mod files;
mod format;
mod kernels;
mod layout;
mod repository;
mod restore;
mod save;
mod storage;
mod task;

pub use codec::{CodecChoice, Decoder, Encoder};
pub use error::{Error, ErrorKind, Result};
pub use files::md5::of_files as md5_of_files;
pub use files::plain_file::{Image, copy_into};
pub use format::digest::{Digest, PackName};
pub use format::dtype::{Class, Element, parse_dtype};
pub use format::envelope;
pub use format::limits::MAX_CHUNK;
pub use format::pack::Codec;
pub use format::snapshot::{Body, Snapshot, State};
pub use format::structure::{FileEntry, Structure, TensorEntry};
pub use format::tree::ChunkRef;
pub use kernels::{Level, level as cpu_level};
pub use layout::pieces::{Layout, TensorAt};
pub use layout::plan::{FileSpec, TensorSpec};
pub use layout::source::{FileSource, MemorySource, StateSource};
pub use repository::import::Imported;
pub use repository::lost::Lost;
pub use repository::prune::Pruned;
pub use repository::repair::Repaired;
pub use repository::retention::Keep;
pub use repository::verify::Report;
pub use repository::{Repository, check_alias};
pub use restore::reader::{Reader, Want};
pub use storage::lock::{Claim, close_inherited_locks, fork_begins, fork_ended};
pub use storage::temporary::Temporary;
pub use task::progress::Progress;
pub use task::{Task, guarded};

/// Items for the integration tests and the benchmarks of this crate. Nothing else may use them: they change without
/// notice.
pub mod internals {
    pub use crate::chunks::placement::{Location, Pack, Placement, Serving};
    pub use crate::chunks::read::Chunks;
    pub use crate::format::dtype::tensor_bytes;
    pub use crate::format::limits::MAX_JSON;
    pub use crate::format::pack;
    pub use crate::kernels::{available, md5_many_at, merge_at, split_at};
    pub use crate::repository::session;
    pub use crate::storage::call::Call;
    #[cfg(feature = "faults")]
    pub use crate::storage::faults;
}
