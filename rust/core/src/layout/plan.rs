//! The plan of a save: which bytes of a file belong to which tensor.

/// A tensor to save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, unique in its file.
    pub name: String,
    /// The dtype, as docs/format.md §5.1 writes it.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<u64>,
    /// `weights`, `optimizer`, `counters` or `training`.
    pub role: String,
    /// The first byte in the file. It is ignored for a tensor that is in no file or has no bytes.
    pub offset: u64,
}

/// A file to save: tensors, and literal bytes between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// The path in the snapshot, relative and `/`-separated.
    pub path: String,
    /// Length of the file in bytes.
    pub size: u64,
    /// The tensors in the file. They must not overlap.
    pub tensors: Vec<TensorSpec>,
}
