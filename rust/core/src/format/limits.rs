//! Limits of the format (docs/format.md §10): what a reader may be made to allocate.

/// Raw length of a chunk: bounds what one decode may allocate.
pub const MAX_CHUNK: usize = 4 << 20;
/// A JSON file: a snapshot has some kilobytes plus what the user puts into its metadata.
pub const MAX_JSON: u64 = 64 << 20;
/// Bytes of a placement file: 44 to 76 for each chunk of one snapshot.
pub(crate) const MAX_PLACEMENT: u64 = 1 << 32;
/// Chunks of one snapshot: 64 TiB of 1 MiB chunks.
const MAX_CHUNKS: u64 = 1 << 26;
/// So many chunks a state may have however short they are; more only if they have [`SHORT_CHUNK`] bytes on average. A tree
/// whose nodes name each other again and again stands in few bytes, and its list must not fill the memory.
const FREE_CHUNKS: u64 = 1 << 20;
const SHORT_CHUNK: u64 = 4 << 10;
/// The most chunks that a state of `length` bytes may have.
pub(crate) fn most_chunks(length: u64) -> u64 {
    MAX_CHUNKS.min(length).min(FREE_CHUNKS.max(length / SHORT_CHUNK))
}

/// Files of one snapshot.
pub(crate) const MAX_FILES: usize = 1 << 20;
/// Tensors of one snapshot.
pub(crate) const MAX_TENSORS: usize = 1 << 24;
/// Bytes of a structure: read whole, so a snapshot must not make a reader take any number of chunks for it.
pub(crate) const MAX_STRUCTURE: u64 = 1 << 30;
