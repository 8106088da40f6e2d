//! The limits of the format (docs/format.md §10). They bound what hostile input can make a reader allocate.

/// The most raw bytes of a chunk, 4 MiB: what one decode may allocate.
pub const MAX_CHUNK: usize = 4 << 20;
/// The most bytes of a JSON file, 64 MiB. A snapshot file has some kilobytes, and what the user puts into its metadata.
pub const MAX_JSON: u64 = 64 << 20;
/// The most bytes of a placement file, 4 GiB. Each chunk takes 44 to 76 bytes.
pub(crate) const MAX_PLACEMENT: u64 = 1 << 32;
/// The most chunks of a snapshot: 64 TiB of chunks of 1 MiB.
const MAX_CHUNKS: u64 = 1 << 26;
/// A state may have this many chunks of any length.
const FREE_CHUNKS: u64 = 1 << 20;
/// More chunks must have this many bytes on average. A tree whose nodes repeat each other takes few bytes, but its list
/// could fill the memory.
const SHORT_CHUNK: u64 = 4 << 10;

/// The most chunks of a state of `length` bytes.
pub(crate) fn most_chunks(length: u64) -> u64 {
    MAX_CHUNKS.min(length).min(FREE_CHUNKS.max(length / SHORT_CHUNK))
}

/// The most files of a snapshot.
pub(crate) const MAX_FILES: usize = 1 << 20;
/// The most tensors of a snapshot.
pub(crate) const MAX_TENSORS: usize = 1 << 24;
/// The most bytes of a structure, 1 GiB: it is read into memory as a whole.
pub(crate) const MAX_STRUCTURE: u64 = 1 << 30;
