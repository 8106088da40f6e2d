//! The source of the bytes of a state when it is saved: files on disk, or memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::layout::pieces::{Layout, Piece, TensorAt};
use crate::layout::plan::FileSpec;
use crate::storage::open_files::OpenFiles;
use crate::storage::{self, Identity};

/// Random access to the bytes of a state, from several threads at once.
pub trait StateSource: Sync {
    /// Bytes `start..start + len` of a tensor. An implementation may read them into `scratch`.
    ///
    /// # Errors
    /// `Io` if the bytes cannot be read, `InvalidInput` if their file has changed.
    fn tensor<'a>(&'a self, at: TensorAt, start: u64, len: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]>;

    /// Fills `buffer` with literal bytes of a file, from byte `offset` of the file on. `literal` is the number of
    /// literal bytes before them.
    ///
    /// # Errors
    /// Those of [`StateSource::tensor`].
    fn literal(&self, file: usize, offset: u64, literal: u64, buffer: &mut [u8]) -> Result<()>;

    /// Called after everything was read: checks that all bytes belong to one state.
    ///
    /// # Errors
    /// `InvalidInput` if the source has changed since it was opened.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// Files on disk.
#[derive(Debug)]
pub struct FileSource<'a> {
    specs: &'a [FileSpec],
    files: Vec<(PathBuf, Identity)>,
    open: OpenFiles<usize>,
}

impl<'a> FileSource<'a> {
    /// Opens the file of each spec.
    ///
    /// # Errors
    /// `NotFound` or `Io` if a file cannot be opened, `InvalidInput` if it has not the size of its spec, or if there
    /// are not as many paths as specs.
    pub fn open(specs: &'a [FileSpec], paths: Vec<PathBuf>) -> Result<Self> {
        if paths.len() != specs.len() {
            return Err(Error::invalid(format!("{} paths for {} file plans", paths.len(), specs.len())));
        }
        let open = OpenFiles::default();
        let look = |(index, path): (usize, PathBuf)| {
            let file = open.get(index, || storage::open(&path))?;
            let identity = storage::identity(&file, &path)?;
            Ok((path, identity))
        };
        let files = paths.into_iter().enumerate().map(look).collect::<Result<Vec<_>>>()?;
        let source = Self { specs, files, open };
        source.finish()?;
        Ok(source)
    }

    /// A file. If it was closed to save descriptors, it is opened again, and must still be the same file.
    fn file(&self, index: usize) -> Result<Arc<File>> {
        let (path, identity) = &self.files[index];
        self.open.get(index, || {
            let file =
                storage::open(path).map_err(|e| if e.kind() == ErrorKind::NotFound { changed(path) } else { e })?;
            if storage::identity(&file, path)? == *identity { Ok(file) } else { Err(changed(path)) }
        })
    }

    fn read(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let path = &self.files[index].0;
        storage::read_at(&*self.file(index)?, path, buffer, offset).map_err(|e| match e.kind() {
            ErrorKind::Corrupt => changed(path),
            _ => e,
        })
    }
}

fn changed(path: &Path) -> Error {
    Error::invalid(format!("{} was changed while it was being saved; nothing was saved. Save again", path.display()))
}

impl StateSource for FileSource<'_> {
    fn tensor<'a>(&'a self, at: TensorAt, start: u64, len: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let offset = self.specs[at.file].tensors[at.tensor].offset;
        scratch.resize(len, 0);
        self.read(at.file, offset + start, scratch)?;
        Ok(scratch)
    }

    fn literal(&self, file: usize, offset: u64, _literal: u64, buffer: &mut [u8]) -> Result<()> {
        self.read(file, offset, buffer)
    }

    fn finish(&self) -> Result<()> {
        for (index, ((path, identity), spec)) in self.files.iter().zip(self.specs).enumerate() {
            let file = self.file(index)?;
            if storage::length(&file, path)? != spec.size || storage::identity(&file, path)? != *identity {
                return Err(changed(path));
            }
        }
        Ok(())
    }
}

/// Tensors and literals in memory, in the order of the specs.
#[derive(Debug)]
pub struct MemorySource<'a> {
    /// The bytes of each tensor: a list for each file, and a last one for the training tensors.
    pub tensors: Vec<Vec<&'a [u8]>>,
    /// For each file, the literal bytes, in file order.
    pub literals: Vec<&'a [u8]>,
}

impl<'a> MemorySource<'a> {
    /// Checks that every buffer has the length that the layout needs.
    ///
    /// # Errors
    /// `InvalidInput` if one has not, or if a buffer is missing.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        let s = &layout.structure;
        let wanted = s.files.iter().map(|f| &f.tensors).chain([&s.training]);
        if self.tensors.len() != s.files.len() + 1 || self.literals.len() != s.files.len() {
            return Err(Error::invalid(format!(
                "buffers for {} files, the plan has {}",
                self.literals.len(),
                s.files.len()
            )));
        }
        for (tensors, buffers) in wanted.zip(&self.tensors) {
            if tensors.len() != buffers.len() {
                return Err(Error::invalid(format!("{} buffers for {} tensors", buffers.len(), tensors.len())));
            }
            for (entry, buffer) in tensors.iter().zip(buffers) {
                let bytes = crate::format::dtype::tensor_bytes(&entry.dtype, &entry.shape)?;
                if bytes != buffer.len() as u64 {
                    return Err(Error::invalid(format!(
                        "the buffer of {:?} has {} bytes, its dtype and shape need {bytes}",
                        entry.name,
                        buffer.len()
                    )));
                }
            }
        }
        for (runs, literal) in layout.literals.iter().zip(&self.literals) {
            let bytes: u64 = runs.iter().map(|r| r.1).sum();
            if bytes != literal.len() as u64 {
                return Err(Error::invalid(format!("{} literal bytes, the plan needs {bytes}", literal.len())));
            }
        }
        Ok(())
    }
}

impl StateSource for MemorySource<'_> {
    fn tensor<'a>(&'a self, at: TensorAt, start: u64, len: usize, _scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let start = start as usize;
        Ok(&self.tensors[at.file][at.tensor][start..start + len])
    }

    fn literal(&self, file: usize, _offset: u64, literal: u64, buffer: &mut [u8]) -> Result<()> {
        let start = literal as usize;
        buffer.copy_from_slice(&self.literals[file][start..start + buffer.len()]);
        Ok(())
    }
}

/// Fills `buffer` with literal bytes of a file. `position` is the number of literal bytes before them.
pub(crate) fn read_literals(
    source: &dyn StateSource,
    layout: &Layout,
    file: usize,
    position: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let mut skip = position;
    let mut filled = 0;
    for &(offset, len) in &layout.literals[file] {
        if skip >= len {
            skip -= len;
            continue;
        }
        let n = ((len - skip) as usize).min(buffer.len() - filled);
        source.literal(file, offset + skip, position + filled as u64, &mut buffer[filled..filled + n])?;
        filled += n;
        skip = 0;
        if filled == buffer.len() {
            break;
        }
    }
    Ok(())
}

/// The bytes of a run or a group. They may be read into `scratch` or `joined`.
pub(crate) fn read_piece<'a>(
    source: &'a dyn StateSource,
    piece: &Piece,
    scratch: &'a mut Vec<u8>,
    joined: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    match piece {
        Piece::Run { at, start, len, .. } => source.tensor(*at, *start, *len, scratch),
        Piece::Group { members, .. } if members.len() == 1 => source.tensor(members[0].0, 0, members[0].1, scratch),
        Piece::Group { members, .. } => {
            joined.clear();
            for &(at, len) in members {
                joined.extend_from_slice(source.tensor(at, 0, len, scratch)?);
            }
            Ok(joined)
        }
        Piece::Literals { .. } => Err(Error::invalid("literals are not read as one piece")),
    }
}
