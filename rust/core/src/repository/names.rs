//! Names of snapshots: the aliases that are computed, and those of the user.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::format::envelope;
use crate::format::snapshot::Snapshot;
use crate::repository::paths::small_files;
use crate::repository::retention::ranking;
use crate::repository::session::{PruneLock, Session};
use crate::repository::{Repository, small_file};
use crate::storage;

impl Repository {
    /// The snapshot that a user means: a user alias, `latest`, `best`, `epoch_N`, `epoch_N_batch_B`, a number, or the first 6 or more digits of an id.
    pub fn resolve(&self, series: Option<&str>, reference: &str) -> Result<Arc<Snapshot>> {
        let (all, damaged) = self.readable()?;
        if let Some((number, damage)) = damaged {
            // A damaged one may be what is meant, unless a number, an id, or a newer one is.
            let newest = all.last().map_or(0, |s| s.number);
            let inside: Vec<&Snapshot> = all.iter().map(|s| &**s).collect();
            if by_id(reference, &inside).is_none() && (reference != "latest" || newest < number) {
                return Err(damage);
            }
        }
        let names: BTreeSet<&str> = all.iter().map(|s| s.body.series.as_str()).collect();
        if let Some(wanted) = series
            && !names.contains(wanted)
        {
            return Err(Error::not_found(format!(
                "{} has no series {wanted:?}; it has {names:?}",
                self.root().display()
            )));
        }
        let inside: Vec<&Snapshot> =
            all.iter().map(|s| &**s).filter(|s| series.is_none_or(|n| s.body.series == n)).collect();
        if inside.is_empty() {
            return Err(Error::not_found(format!("{} holds no snapshot yet", self.root().display())));
        }
        let found = match series.or(if names.len() == 1 { names.first().copied() } else { None }) {
            Some(one) => self.named(one, reference, &inside)?.or_else(|| by_id(reference, &inside)),
            None => match by_id(reference, &inside) {
                Some(number) => Some(number),
                None => {
                    return Err(Error::invalid(format!(
                        "{} holds several series; say which: DIR@SERIES:{reference} with one of {names:?}",
                        self.root().display()
                    )));
                }
            },
        };
        let number = found.ok_or_else(|| {
            Error::not_found(format!(
                "no snapshot {reference:?} in {}; expected an alias, latest, best, epoch_N, a number or an id",
                self.root().display()
            ))
        })?;
        all.iter()
            .find(|s| s.number == number)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("snapshot {number} is gone")))
    }

    fn named(&self, series: &str, reference: &str, inside: &[&Snapshot]) -> Result<Option<u64>> {
        if let Some((_, id)) = self.read_alias(&self.paths.alias(series, reference))? {
            let target = inside.iter().find(|s| s.id == id);
            return target
                .map(|s| Some(s.number))
                .ok_or_else(|| Error::not_found(format!("alias {reference:?} names snapshot {id}, which is gone")));
        }
        let newest = |test: &dyn Fn(&Snapshot) -> bool| inside.iter().filter(|s| test(s)).map(|s| s.number).max();
        Ok(match reference {
            "latest" => newest(&|_| true),
            "best" => best(inside),
            _ => reference.strip_prefix("epoch_").and_then(|rest| {
                let (epoch, batch) = rest.split_once("_batch_").map_or((rest, None), |(e, b)| (e, Some(b)));
                let epoch: i64 = epoch.parse().ok()?;
                let batch: Option<i64> = match batch {
                    Some(b) => Some(b.parse().ok()?),
                    None => None,
                };
                newest(&|s| s.body.epoch == Some(epoch) && s.body.batch == batch)
            }),
        })
    }

    /// Number → the aliases of each snapshot: computed ones first, then the user's.
    pub fn aliases(&self) -> Result<HashMap<u64, Vec<String>>> {
        let all = self.snapshots()?;
        let mut out: HashMap<u64, Vec<String>> = HashMap::new();
        let mut series: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
        for s in &all {
            series.entry(&s.body.series).or_default().push(s);
        }
        for inside in series.values() {
            let computed = [("latest", inside.iter().map(|s| s.number).max()), ("best", best(inside))];
            for (name, number) in computed {
                out.entry(number.unwrap_or(0)).or_default().extend(number.map(|_| name.to_owned()));
            }
            let mut epochs: BTreeMap<String, u64> = BTreeMap::new();
            for s in inside {
                if let Some(epoch) = s.body.epoch {
                    let batch = s.body.batch.map_or(String::new(), |b| format!("_batch_{b}"));
                    let newest = epochs.entry(format!("epoch_{epoch}{batch}")).or_default();
                    *newest = s.number.max(*newest);
                }
            }
            for (name, number) in epochs {
                out.entry(number).or_default().push(name);
            }
        }
        for (alias, id) in self.user_aliases()? {
            if let Some(s) = all.iter().find(|s| s.id == id) {
                out.entry(s.number).or_default().push(alias);
            }
        }
        Ok(out)
    }

    fn read_alias(&self, path: &Path) -> Result<Option<(String, String)>> {
        let Some(body) = small_file::read(path, "alias")? else { return Ok(None) };
        let what = path.display();
        let field = |name: &str| {
            let value = body.get(name).and_then(Value::as_str).map(str::to_owned);
            value.ok_or_else(|| Error::corrupt(format!("{what} is damaged: it has no {name:?}")))
        };
        let (series, alias, snapshot) = (field("series")?, field("alias")?, field("snapshot")?);
        if self.paths.alias(&series, &alias).file_name() != path.file_name() {
            return Err(Error::corrupt(format!(
                "{what} is damaged: it holds the alias {alias:?} of {series:?}, its name is that of another"
            )));
        }
        Ok(Some((alias, snapshot)))
    }

    pub(super) fn user_aliases(&self) -> Result<Vec<(String, String)>> {
        let mut aliases = vec![];
        for path in small_files(&self.paths.aliases())? {
            aliases.extend(self.read_alias(&path)?);
        }
        aliases.sort();
        Ok(aliases)
    }

    /// Lets a user alias name a snapshot of its series; it moves if it exists.
    pub fn set_alias(&self, snapshot: &Snapshot, alias: &str) -> Result<()> {
        check_alias(alias)?;
        storage::create_dir(&self.paths.aliases())?;
        let fields = [("series", snapshot.body.series.as_str()), ("alias", alias), ("snapshot", snapshot.id.as_str())];
        let bytes = envelope::seal("alias", &envelope::body(fields.map(|(k, v)| (k, v.into()))))?;
        self.flush_names()?;
        // A prune either sees the alias or is over: else it would delete what the alias has just come to name.
        let _lock = PruneLock::share(self.root())?;
        if !storage::exists(&self.paths.snapshot(snapshot.number))? {
            return Err(Error::not_found(format!("snapshot {} is gone: a prune has deleted it", snapshot.number)));
        }
        let session = Session::begin(self.root())?;
        storage::write_atomic(&session.temp("alias"), &self.paths.alias(&snapshot.body.series, alias), &bytes)
    }

    /// Deletes a user alias; `false` if there was none.
    pub fn remove_alias(&self, series: &str, alias: &str) -> Result<bool> {
        let path = self.paths.alias(series, alias);
        let there = storage::exists(&path)?;
        storage::remove_file(&path)?;
        self.sync_aliases()?;
        Ok(there)
    }

    pub(super) fn sync_aliases(&self) -> Result<()> {
        storage::sync_dir_if_any(&self.paths.aliases())
    }
}

/// The best of a series: the best value among the snapshots that were the best when they were saved.
fn best(inside: &[&Snapshot]) -> Option<u64> {
    let flagged: Vec<&Snapshot> = inside.iter().copied().filter(|s| s.body.best).collect();
    ranking(&flagged).first().map(|s| s.number).or_else(|| flagged.iter().map(|s| s.number).max())
}

fn by_id(reference: &str, inside: &[&Snapshot]) -> Option<u64> {
    if let Ok(number) = reference.parse::<u64>()
        && reference.len() <= 10
        && inside.iter().any(|s| s.number == number)
    {
        return Some(number);
    }
    let mut matching = inside.iter().filter(|s| reference.len() >= 6 && s.id.starts_with(reference));
    let first = matching.next()?;
    // Two imports at once may have brought the same one twice.
    matching.all(|s| s.id == first.id).then_some(first.number)
}

/// Refuses a name that no user alias may have.
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
