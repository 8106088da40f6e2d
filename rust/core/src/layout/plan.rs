//! The plan of a save: which bytes of a file are which tensors.

/// A tensor to be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, unique in its file.
    pub name: String,
    /// dtype (docs/format.md §5.1).
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// `weights`, `optimizer`, `counters` or `training`.
    pub role: String,
    /// Where its bytes stand in the file; nothing for tensors without file or bytes.
    pub offset: u64,
}

/// A file to be saved: tensors, and literal bytes between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Path inside the snapshot.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Tensors, none overlapping another.
    pub tensors: Vec<TensorSpec>,
}
