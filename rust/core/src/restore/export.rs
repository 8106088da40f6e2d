//! Export: writes the files of a snapshot into a folder.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::chunks::read::Scratch;
use crate::error::{Error, Result};
use crate::restore::reader::Reader;
use crate::storage;
use crate::storage::open_files::{self, OpenFiles};
use crate::storage::temporary::Temporary;
use crate::task::Task;

impl Reader {
    /// Writes the files of the snapshot into `folder`. Each has a temporary name until all are complete; existing files
    /// are then replaced. Returns the paths of the files.
    ///
    /// # Errors
    /// `Corrupt` if bytes of the snapshot are lost or damaged, `NotFound` if a prune deletes the snapshot meanwhile,
    /// `InvalidInput` if a folder has the path of a file. `Io` if a file cannot be written, or the error of an
    /// interrupt of `task`.
    pub fn export(&self, folder: &Path, task: &Task<'_>) -> Result<Vec<PathBuf>> {
        self.refuse_lost(0..self.content.len())?;
        storage::create_dir(folder)?;
        let mut outputs = Outputs::new(folder, self.structure.files.len())?;
        for file in &self.structure.files {
            outputs.create(folder, &file.path, file.size)?;
        }
        let mut runs: HashMap<usize, Vec<Copy>> = HashMap::new();
        for (number, file) in self.structure.files.iter().enumerate() {
            let mut position = 0;
            for &(offset, len) in &file.extents {
                for index in self.overlapping(offset, offset + len) {
                    let start = self.starts[index].max(offset);
                    let end = (self.starts[index] + u64::from(self.content[index].len)).min(offset + len);
                    let within = (start - self.starts[index]) as usize;
                    let copy =
                        Copy { file: number, position: position + start - offset, within, len: (end - start) as usize };
                    runs.entry(index).or_default().push(copy);
                }
                position += len;
            }
        }
        let mut runs: Vec<_> = runs.into_iter().collect();
        runs.sort_by_key(|r| r.0);
        task.begin("exporting", runs.iter().map(|r| u64::from(self.content[r.0].len)).sum());
        let mut runs = runs.into_iter();
        let work = |scratch: &mut Scratch, (index, copies): (usize, Vec<Copy>)| {
            let mut raw = std::mem::take(&mut scratch.raw);
            raw.resize(self.content[index].len as usize, 0);
            let result = self.chunk(index, scratch, &mut raw);
            let result = result.and_then(|()| copies.iter().try_for_each(|c| outputs.write(c, &raw)));
            scratch.raw = raw;
            result.map(|()| u64::from(self.content[index].len))
        };
        task.run(
            64,
            || Ok(runs.next()),
            Scratch::new,
            work,
            |bytes| {
                task.advance(bytes);
                Ok(())
            },
        )
        .map_err(|e| self.told(e))?;
        outputs.commit()
    }
}

/// A copy of `len` bytes of a chunk, from byte `within` on, to byte `position` of a file.
struct Copy {
    file: usize,
    position: u64,
    within: usize,
    len: usize,
}

/// A file that is being written.
enum Output {
    /// A locked temporary file in the target folder.
    Alone(Temporary),
    /// One of many files in a locked temporary folder, because not all of them can be open at the same time.
    Shared(PathBuf),
}

/// The files of an export, each with its target path. If they are not committed, they are removed.
#[derive(Default)]
struct Outputs {
    files: Vec<(Output, PathBuf)>,
    shared: Option<Temporary>,
    open: OpenFiles<usize>,
}

impl Outputs {
    /// Prepares an export of `count` files into `folder`.
    fn new(folder: &Path, count: usize) -> Result<Self> {
        let shared = if count > open_files::MOST { Some(Temporary::folder(folder)?) } else { None };
        shared.iter().for_each(Temporary::sweep);
        Ok(Self { shared, ..Self::default() })
    }

    fn create(&mut self, folder: &Path, path: &str, size: u64) -> Result<()> {
        let target = path.split('/').fold(folder.to_owned(), |folder, part| folder.join(part));
        let parent = storage::parent(&target);
        storage::create_dir(&parent)?;
        if target.is_dir() {
            return Err(Error::invalid(format!(
                "{} is a folder, but the snapshot has a file of this name",
                target.display()
            )));
        }
        let shared = self.shared.as_ref().map(Temporary::path).filter(|shared| storage::on_one_disk(shared, &parent));
        let output = match shared {
            Some(shared) => {
                let place = shared.join(self.files.len().to_string());
                let file = self.open.get(self.files.len(), || storage::create_new(&place))?;
                storage::set_length(&file, &place, size)?;
                Output::Shared(place)
            }
            None => {
                let temporary = Temporary::file(&parent)?;
                // Files of the same folder follow each other, so each folder is swept once.
                if self.files.last().is_none_or(|(_, before)| before.parent() != target.parent()) {
                    temporary.sweep();
                }
                storage::set_length(temporary.opened(), temporary.path(), size)?;
                Output::Alone(temporary)
            }
        };
        self.files.push((output, target));
        Ok(())
    }

    /// Calls `action` with a file. A file that was closed to save descriptors is opened again.
    fn with(&self, index: usize, action: impl FnOnce(&File, &Path) -> Result<()>) -> Result<()> {
        match &self.files[index].0 {
            Output::Alone(temporary) => action(temporary.opened(), temporary.path()),
            Output::Shared(place) => action(&*self.open.get(index, || storage::open_to_write(place))?, place),
        }
    }

    fn write(&self, copy: &Copy, raw: &[u8]) -> Result<()> {
        let bytes = &raw[copy.within..copy.within + copy.len];
        self.with(copy.file, |file, path| storage::write_early(file, path, bytes, copy.position))
    }

    fn commit(self) -> Result<Vec<PathBuf>> {
        (0..self.files.len()).try_for_each(|index| self.with(index, storage::sync))?;
        let mut paths = vec![];
        let mut folders = HashSet::new();
        for (output, target) in self.files {
            match output {
                Output::Alone(temporary) => temporary.rename_to(&target)?,
                Output::Shared(place) => storage::rename(&place, &target)?,
            }
            folders.insert(storage::parent(&target));
            paths.push(target);
        }
        folders.iter().try_for_each(|f| storage::sync_dir(f))?;
        Ok(paths)
    }
}
