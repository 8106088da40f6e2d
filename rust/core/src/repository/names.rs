//! Names of snapshots: computed aliases, and user aliases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::snapshot::Snapshot;
use crate::repository::aliases::check_alias;
use crate::repository::parts::Parts;
use crate::repository::retention::ranking;
use crate::repository::session::{PruneLock, Session};
use crate::storage;

/// The snapshot that a reference names; see [`crate::Repository::resolve`].
pub(super) fn resolve(parts: &Parts, series: Option<&str>, reference: &str) -> Result<Arc<Snapshot>> {
    let (all, damaged) = parts.snapshots.readable_and_damage()?;
    if let Some((number, damage)) = damaged {
        // The damaged snapshot may be the one that is meant, unless a number, an id, or a newer `latest` names another.
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
        return Err(Error::not_found(format!("{} has no series {wanted:?}; it has {names:?}", parts.root().display())));
    }
    let inside: Vec<&Snapshot> =
        all.iter().map(|s| &**s).filter(|s| series.is_none_or(|n| s.body.series == n)).collect();
    if inside.is_empty() {
        return Err(Error::not_found(format!("{} holds no snapshot yet", parts.root().display())));
    }
    let found = match series.or(if names.len() == 1 { names.first().copied() } else { None }) {
        Some(one) => named(parts, one, reference, &inside)?.or_else(|| by_id(reference, &inside)),
        None => match by_id(reference, &inside) {
            Some(number) => Some(number),
            None => {
                return Err(Error::invalid(format!(
                    "{} holds several series; name one: DIR@SERIES:{reference}, with one of {names:?}",
                    parts.root().display()
                )));
            }
        },
    };
    let number = found.ok_or_else(|| {
        Error::not_found(format!(
            "no snapshot {reference:?} in {}; expected an alias, latest, best, epoch_N, a number or an id",
            parts.root().display()
        ))
    })?;
    all.iter()
        .find(|s| s.number == number)
        .cloned()
        .ok_or_else(|| Error::not_found(format!("snapshot {number} does not exist any more")))
}

fn named(parts: &Parts, series: &str, reference: &str, inside: &[&Snapshot]) -> Result<Option<u64>> {
    if let Some(id) = parts.aliases.find(series, reference)? {
        let target = inside.iter().find(|s| s.id == id);
        return target.map(|s| Some(s.number)).ok_or_else(|| {
            Error::not_found(format!("alias {reference:?} names snapshot {id}, which does not exist any more"))
        });
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

/// The aliases of each snapshot, by its number: first the computed ones, then those of the user.
pub(super) fn aliases(parts: &Parts) -> Result<HashMap<u64, Vec<String>>> {
    let all = parts.snapshots.all()?;
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
    for (alias, id) in parts.aliases.all()? {
        if let Some(s) = all.iter().find(|s| s.id == id) {
            out.entry(s.number).or_default().push(alias);
        }
    }
    Ok(out)
}

/// Makes a user alias name this snapshot. An alias that exists is moved.
pub(super) fn set_alias(parts: &Parts, snapshot: &Snapshot, alias: &str) -> Result<()> {
    check_alias(alias)?;
    storage::create_dir(&parts.paths.aliases())?;
    parts.flush_names()?;
    // No prune may run meanwhile: it would not see the alias, and could delete the snapshot.
    let _lock = PruneLock::share(parts.root())?;
    if !storage::exists(&parts.paths.snapshot(snapshot.number))? {
        return Err(Error::not_found(format!("snapshot {} is gone: a prune has deleted it", snapshot.number)));
    }
    parts.aliases.set(snapshot, alias, &Session::begin(parts.root())?)
}

/// The best snapshot of a series: that with the best value, of those that were the best when they were saved.
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
    // Two imports at the same time may have committed the same snapshot twice.
    matching.all(|s| s.id == first.id).then_some(first.number)
}
