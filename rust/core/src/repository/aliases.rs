//! User aliases of snapshots: one small file for each alias.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::format::envelope;
use crate::format::snapshot::Snapshot;
use crate::repository::paths::{Paths, small_files};
use crate::repository::session::Session;
use crate::repository::small_file;
use crate::storage;

/// The alias files of a repository.
#[derive(Debug)]
pub(crate) struct Aliases {
    paths: Paths,
}

impl Aliases {
    pub(super) fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// The id of the snapshot that an alias of a series names; `None` if there is no such alias.
    pub(super) fn find(&self, series: &str, alias: &str) -> Result<Option<String>> {
        Ok(self.read(&self.paths.alias(series, alias))?.map(|(_, id)| id))
    }

    fn read(&self, path: &Path) -> Result<Option<(String, String)>> {
        let Some(body) = small_file::read(path, "alias")? else { return Ok(None) };
        let what = path.display();
        let field = |name: &str| {
            let value = body.get(name).and_then(Value::as_str).map(str::to_owned);
            value.ok_or_else(|| Error::corrupt(format!("{what} is damaged: it has no {name:?}")))
        };
        let (series, alias, snapshot) = (field("series")?, field("alias")?, field("snapshot")?);
        if self.paths.alias(&series, &alias).file_name() != path.file_name() {
            return Err(Error::corrupt(format!(
                "{what} is damaged: it holds the alias {alias:?} of {series:?}, which belongs under another name"
            )));
        }
        Ok(Some((alias, snapshot)))
    }

    /// Every alias, with the id of the snapshot that it names.
    pub(super) fn all(&self) -> Result<Vec<(String, String)>> {
        let mut aliases = vec![];
        for path in small_files(&self.paths.aliases())? {
            aliases.extend(self.read(&path)?);
        }
        aliases.sort();
        Ok(aliases)
    }

    /// The ids of the snapshots that aliases name. Aliases that cannot be read are left out.
    pub(super) fn readable_targets(&self) -> Result<HashSet<String>> {
        let bodies =
            small_files(&self.paths.aliases())?.into_iter().filter_map(|p| small_file::read(&p, "alias").ok()?);
        Ok(bodies.filter_map(|body| Some(body.get("snapshot")?.as_str()?.to_owned())).collect())
    }

    /// Makes an alias name this snapshot. An alias that exists is moved.
    pub(super) fn set(&self, snapshot: &Snapshot, alias: &str, session: &Session) -> Result<()> {
        let fields = [("series", snapshot.body.series.as_str()), ("alias", alias), ("snapshot", snapshot.id.as_str())];
        let bytes = envelope::seal("alias", &envelope::body(fields.map(|(k, v)| (k, v.into()))))?;
        storage::write_atomic(&session.temp("alias"), &self.paths.alias(&snapshot.body.series, alias), &bytes)
    }

    /// Deletes an alias; `false` if there was none.
    pub(super) fn remove(&self, series: &str, alias: &str) -> Result<bool> {
        let path = self.paths.alias(series, alias);
        let there = storage::exists(&path)?;
        storage::remove_file(&path)?;
        self.sync()?;
        Ok(there)
    }

    /// Flushes the folder of the aliases, so that those which are visible survive a crash.
    pub(super) fn sync(&self) -> Result<()> {
        storage::sync_dir_if_any(&self.paths.aliases())
    }
}

/// Checks the name of a user alias: 1 to 128 bytes, without `/`, `:`, `@` and control characters, and not `latest`.
///
/// # Errors
/// `InvalidInput` for any other name.
///
/// # Examples
/// ```
/// use lamina_core::check_alias;
///
/// assert!(check_alias("release").is_ok());
/// assert!(check_alias("a/b").is_err());
/// assert!(check_alias("latest").is_err());
/// ```
pub fn check_alias(alias: &str) -> Result<()> {
    if alias.is_empty() || alias.len() > 128 || alias.chars().any(|c| matches!(c, '/' | ':' | '@') || c.is_control()) {
        return Err(Error::invalid(format!(
            "an alias has 1 to 128 bytes and none of '/', ':', '@'. Received: {alias:?}"
        )));
    }
    if alias == "latest" {
        return Err(Error::invalid("the alias \"latest\" is computed: it is always the newest snapshot of a series"));
    }
    Ok(())
}
