//! Condemned packs: packs that a prune will delete after all saves that may use them have ended (docs/format.md §9).

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::PackName;
use crate::format::envelope;
use crate::repository::paths::Paths;
use crate::repository::small_file;
use crate::storage;

/// The condemned packs, each with the sessions that may use it; `None` until a prune has listed them.
pub(super) type List = BTreeMap<PackName, Option<Vec<String>>>;

/// The file of condemned packs. Only the holder of the prune lock writes it.
#[derive(Debug)]
pub(crate) struct Condemned {
    paths: Paths,
}

impl Condemned {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths }
    }

    pub(super) fn read(&self) -> Result<Option<List>> {
        let path = self.paths.condemned();
        let Some(body) = small_file::read(&path, "condemned")? else { return Ok(None) };
        let damaged = || Error::corrupt(format!("{} is damaged", path.display()));
        let packs: BTreeMap<String, Option<Vec<String>>> =
            serde_json::from_value(body.get("packs").cloned().ok_or_else(damaged)?).map_err(|_| damaged())?;
        packs
            .into_iter()
            .map(|(name, s)| Ok((PackName::from_hex(&name).ok_or_else(damaged)?, s)))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// The names of the condemned packs; `None` if the file is damaged. Then a save must not use any known pack.
    pub(crate) fn for_save(&self) -> Result<Option<HashSet<PackName>>> {
        match self.read() {
            Ok(list) => Ok(Some(list.unwrap_or_default().into_keys().collect())),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn write(&self, condemned: &List) -> Result<()> {
        let packs: Map<String, Value> = condemned.iter().map(|(n, s)| (n.hex(), Value::from(s.clone()))).collect();
        storage::write_atomic(
            &self.paths.condemned_temp(),
            &self.paths.condemned(),
            &envelope::seal("condemned", &envelope::body([("packs", packs.into())]))?,
        )
    }

    /// Deletes the file: no pack is condemned any more.
    pub(super) fn clear(&self) -> Result<()> {
        storage::remove_file(&self.paths.condemned())
    }

    /// Deletes the temporary file of a prune that was killed.
    pub(super) fn sweep(&self) -> Result<()> {
        storage::remove_file(&self.paths.condemned_temp())
    }
}
