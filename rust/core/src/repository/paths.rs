//! The paths of a repository (docs/format.md §3).

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::format::digest::{Digest, PackName};
use crate::format::pack;
use crate::storage;

/// The extension of snapshots, aliases and journal entries.
const JSON: &str = ".json";
/// The extension of a claim, which reserves a number for a snapshot.
const CLAIM: &str = ".claim";

/// The paths of a repository, or of an artifact directory.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    pub(crate) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    pub(crate) fn pack(&self, name: &PackName) -> PathBuf {
        self.packs().join(pack::file_name(name))
    }

    /// The names of the packs in the folder, sorted.
    pub(crate) fn pack_names(&self) -> Result<Vec<PackName>> {
        let mut names: Vec<_> = storage::list(&self.packs())?.iter().filter_map(|file| pack::name_of(file)).collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn snapshot(&self, number: u64) -> PathBuf {
        self.snapshots().join(format!("{number:010}{JSON}"))
    }

    pub(crate) fn claim(&self, number: u64) -> PathBuf {
        self.snapshots().join(format!("{number:010}{CLAIM}"))
    }

    /// The snapshot file of an artifact directory.
    pub(crate) fn artifact(&self) -> PathBuf {
        self.root.join("lamina.json")
    }

    pub(crate) fn aliases(&self) -> PathBuf {
        self.root.join("aliases")
    }

    pub(crate) fn alias(&self, series: &str, alias: &str) -> PathBuf {
        let key = [series.as_bytes(), b"\0", alias.as_bytes()].concat();
        self.aliases().join(format!("{}{JSON}", &Digest::of(&key).hex()[..32]))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn condemned(&self) -> PathBuf {
        self.root.join("condemned.json")
    }

    /// The temporary name of that file. Only the holder of the prune lock writes it.
    pub(crate) fn condemned_temp(&self) -> PathBuf {
        self.root.join(".condemned.tmp")
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    pub(crate) fn session_lock(&self, name: &str) -> PathBuf {
        self.sessions().join(name).join("lock")
    }

    pub(crate) fn prune_lock(&self) -> PathBuf {
        self.root.join("prune.lock")
    }

    /// The optional small files of the repository, each with its kind.
    pub(crate) fn small_files(&self) -> Result<Vec<(&'static str, PathBuf)>> {
        let mut files = vec![("condemned", self.condemned())];
        files.extend(small_files(&self.aliases())?.into_iter().map(|path| ("alias", path)));
        files.extend(small_files(&self.journal())?.into_iter().map(|path| ("journal", path)));
        Ok(files)
    }

    /// The same paths below the folder `quarantine`, to which damaged files are moved.
    pub(crate) fn quarantine(&self) -> Self {
        Self { root: self.root.join("quarantine") }
    }

    /// A path relative to the repository, `/`-separated, as reports show it.
    pub(crate) fn shown(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    }
}

/// The small files in a folder, without temporary ones.
pub(crate) fn small_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names = storage::list(folder)?;
    names.retain(|name| name.ends_with(JSON) && !name.starts_with('.'));
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The number of the snapshot with this file name; `None` if it is not one.
pub(crate) fn snapshot_number(file: &str) -> Option<u64> {
    file.strip_suffix(JSON).and_then(number)
}

/// The number of the claim with this file name; `None` if it is not one.
pub(crate) fn claim_number(file: &str) -> Option<u64> {
    file.strip_suffix(CLAIM).and_then(number)
}

fn number(digits: &str) -> Option<u64> {
    (digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let paths = Paths::new(Path::new("r"));
        let file = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(snapshot_number(&file(paths.snapshot(7))), Some(7));
        assert_eq!(claim_number(&file(paths.claim(7))), Some(7));
        assert_eq!((snapshot_number("7.json"), snapshot_number("00000000+7.json")), (None, None));
        let name = Digest::of(b"x");
        assert_eq!(pack::name_of(&file(paths.pack(&name))), Some(name));
        assert_eq!(paths.shown(&paths.quarantine().pack(&name)), format!("quarantine/packs/{}.pack", name.hex()));
    }
}
