//! The image of a file in memory: tensors, and literal bytes between them. It is written completely or not at all.

use std::path::Path;

use crate::error::{Error, Result};
use crate::storage;
use crate::storage::temporary::Temporary;
use crate::task::Task;

/// Bytes that a thread writes, compares or sums at a time.
const STEP: usize = 4 << 20;

/// The bytes of a file, in file order.
#[derive(Debug)]
pub struct Image<'a> {
    size: u64,
    parts: Vec<(u64, &'a [u8])>,
}

impl<'a> Image<'a> {
    /// The image of a file of `size` bytes. Each tensor is its offset in the file and its bytes; `literals` are the
    /// bytes between the tensors, in file order.
    ///
    /// # Errors
    /// `InvalidInput` if tensors overlap, or if all bytes do not fill the file exactly.
    ///
    /// # Examples
    /// ```
    /// use lamina_core::{Image, Task};
    ///
    /// let image = Image::new(6, vec![(2, b"CD")], b"abef")?;
    /// assert_eq!(image.crc32(&Task::new(1)?)?, 0xd3f1_d031);
    /// assert!(Image::new(6, vec![(2, b"CD")], b"abe").is_err());
    /// # Ok::<(), lamina_core::Error>(())
    /// ```
    pub fn new(size: u64, mut tensors: Vec<(u64, &'a [u8])>, literals: &'a [u8]) -> Result<Self> {
        tensors.retain(|t| !t.1.is_empty());
        tensors.sort_by_key(|t| t.0);
        let mut parts = Vec::with_capacity(2 * tensors.len() + 1);
        let (mut at, mut rest) = (0u64, literals);
        let mut fill = |parts: &mut Vec<_>, at: u64, to: u64| {
            let gap = usize::try_from(to - at).ok().filter(|&n| n <= rest.len());
            let gap = gap.ok_or_else(|| {
                Error::invalid(format!("{} literal bytes are too few for a file of {size} bytes", literals.len()))
            })?;
            let (part, later) = rest.split_at(gap);
            if !part.is_empty() {
                parts.push((at, part));
            }
            rest = later;
            Ok::<_, Error>(rest.len())
        };
        for (offset, bytes) in tensors {
            if offset < at {
                return Err(Error::invalid(format!("the tensor at byte {offset} overlaps another")));
            }
            fill(&mut parts, at, offset)?;
            parts.push((offset, bytes));
            at = offset.saturating_add(bytes.len() as u64);
        }
        if at > size || fill(&mut parts, at, size)? > 0 {
            return Err(Error::invalid(format!("tensors and literals have more bytes than the file of {size} bytes")));
        }
        Ok(Self { size, parts })
    }

    /// Pieces of at most [`STEP`] bytes.
    fn steps(&self) -> impl Iterator<Item = (u64, &'a [u8])> + use<'_, 'a> {
        self.parts.iter().flat_map(|&(offset, bytes)| {
            bytes.chunks(STEP).enumerate().map(move |(i, step)| (offset + (i * STEP) as u64, step))
        })
    }

    /// Writes the file under a temporary name beside `path`, flushes and renames it, and flushes the folder. An
    /// existing file is replaced by the rename.
    ///
    /// # Errors
    /// `Io` if the file cannot be written, or the error of an interrupt of `task`; an existing file is then unchanged.
    pub fn write(&self, path: &Path, task: &Task<'_>) -> Result<()> {
        let temporary = Temporary::file(&storage::parent(path))?;
        temporary.sweep();
        self.write_to(&temporary, task)?;
        temporary.rename_to(path)?;
        storage::sync_dir(&storage::parent(path))
    }

    fn write_to(&self, temporary: &Temporary, task: &Task<'_>) -> Result<()> {
        let (file, temp) = (temporary.opened(), temporary.path());
        storage::set_length(file, temp, self.size)?;
        let mut steps = self.steps();
        let work = |_: &mut (), (offset, bytes)| storage::write_early(file, temp, bytes, offset);
        task.run(64, || Ok(steps.next()), || (), work, |()| Ok(()))?;
        storage::sync(file, temp)
    }

    /// Whether the file at `path` holds exactly these bytes.
    ///
    /// # Errors
    /// `NotFound` if there is no file, `Corrupt` if it is not a regular file, `Io` if it cannot be read, or the error
    /// of an interrupt of `task`.
    pub fn is_at(&self, path: &Path, task: &Task<'_>) -> Result<bool> {
        let file = storage::open(path)?;
        if storage::length(&file, path)? != self.size {
            return Ok(false);
        }
        let mut steps = self.steps();
        let work = |buffer: &mut Vec<u8>, (offset, bytes): (u64, &[u8])| {
            buffer.resize(bytes.len(), 0);
            storage::read_at(&file, path, buffer, offset)?;
            Ok(buffer == bytes)
        };
        let mut same = true;
        let sink = |part| {
            same &= part;
            Ok(())
        };
        task.run(64, || Ok(steps.next()), Vec::new, work, sink)?;
        Ok(same)
    }

    /// The CRC-32 of the file, as zip archives use it.
    ///
    /// # Errors
    /// The error of an interrupt of `task`.
    pub fn crc32(&self, task: &Task<'_>) -> Result<u32> {
        let mut steps = self.steps();
        let work = |_: &mut (), (_, bytes): (u64, &[u8])| {
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(bytes);
            Ok(hasher)
        };
        let mut whole = crc32fast::Hasher::new();
        task.run(
            64,
            || Ok(steps.next()),
            || (),
            work,
            |part| {
                whole.combine(&part);
                Ok(())
            },
        )?;
        Ok(whole.finalize())
    }
}

/// Copies each source to its destination, in parallel.
///
/// # Errors
/// `InvalidInput` if a destination has another length than its source; nothing is copied then. Else the error of an
/// interrupt of `task`.
pub fn copy_into(pairs: Vec<(&[u8], &mut [u8])>, task: &Task<'_>) -> Result<()> {
    if let Some((from, to)) = pairs.iter().find(|(from, to)| from.len() != to.len()) {
        return Err(Error::invalid(format!("{} bytes cannot be copied to {} bytes", from.len(), to.len())));
    }
    let total: usize = pairs.iter().map(|p| p.0.len()).sum();
    if task.threads() <= 1 || total < 2 * STEP {
        pairs.into_iter().for_each(|(from, to)| to.copy_from_slice(from));
        return Ok(());
    }
    let mut steps = pairs.into_iter().flat_map(|(from, to)| from.chunks(STEP).zip(to.chunks_mut(STEP)));
    let work = |_: &mut (), (from, to): (&[u8], &mut [u8])| {
        to.copy_from_slice(from);
        Ok(())
    };
    task.run(256, || Ok(steps.next()), || (), work, |()| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(threads: usize) -> Task<'static> {
        Task::new(threads).unwrap()
    }

    #[test]
    fn written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let big = vec![5u8; 9 << 20];
        let size = 3 + big.len() as u64 + 4;
        let image = Image::new(size, vec![(3, &big), (size - 1, b"z"), (9, b"")], b"abcxyw").unwrap();
        image.write(&path, &task(3)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes, [&b"abc"[..], &big, b"xyw", b"z"].concat());
        assert!(image.is_at(&path, &task(2)).unwrap());
        assert!(
            !Image::new(size, vec![(3, &big), (size - 1, b"y"), (9, b"")], b"abcxyw")
                .unwrap()
                .is_at(&path, &task(2))
                .unwrap()
        );
        assert!(!Image::new(3, vec![], b"abc").unwrap().is_at(&path, &task(1)).unwrap());
        assert_eq!(image.crc32(&task(2)).unwrap(), crc32fast::hash(&bytes));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Image::new(5, vec![], b"").unwrap_err().message().contains("few"));
        assert!(Image::new(0, vec![], b"a").is_err());
        assert!(Image::new(4, vec![(0, b"abc"), (2, b"de")], b"").is_err());
        assert!(Image::new(0, vec![], b"").unwrap().write(&folder.path().join("no/f"), &task(1)).is_err());
        let mut to = vec![0; big.len()];
        copy_into(vec![(&big, &mut to)], &task(3)).unwrap();
        assert_eq!(to, big);
        assert!(copy_into(vec![(b"a", &mut [])], &task(1)).is_err());
    }
}
