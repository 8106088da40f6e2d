//! Condemned packs: those that a prune will delete once the saves that may know them have ended (docs/format.md §9).

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::PackName;
use crate::format::envelope;
use crate::repository::{Repository, small_file};
use crate::storage;

impl Repository {
    pub(super) fn read_condemned(&self) -> Result<Option<BTreeMap<PackName, Option<Vec<String>>>>> {
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

    /// The condemned packs; `None` if the list cannot be read: then no pack may be deduplicated against.
    pub(crate) fn condemned_for_save(&self) -> Result<Option<HashSet<PackName>>> {
        match self.read_condemned() {
            Ok(list) => Ok(Some(list.unwrap_or_default().into_keys().collect())),
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn write_condemned(&self, condemned: &BTreeMap<PackName, Option<Vec<String>>>) -> Result<()> {
        let packs: Map<String, Value> = condemned.iter().map(|(n, s)| (n.hex(), Value::from(s.clone()))).collect();
        storage::write_atomic(
            &self.paths.condemned_temp(),
            &self.paths.condemned(),
            &envelope::seal("condemned", &envelope::body([("packs", packs.into())]))?,
        )
    }
}
