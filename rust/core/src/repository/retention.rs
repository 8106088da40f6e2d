//! Retention: which snapshots of a series a prune keeps.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::format::snapshot::Snapshot;

/// Which snapshots of each series to keep. A snapshot is kept if at least one rule keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// How many of the newest to keep.
    pub last: Option<usize>,
    /// How many of the best to keep, by the metric that the newest monitored snapshot names.
    pub best: Option<usize>,
    /// Keep one at the end of every `every` epochs.
    pub every: Option<u64>,
}

impl Keep {
    /// Checks that at least one rule is set, and that none is 0.
    ///
    /// # Errors
    /// `InvalidInput` if that is not so.
    pub fn check(&self) -> Result<()> {
        let zero = self.last == Some(0) || self.best == Some(0) || self.every == Some(0);
        if zero || *self == Self::default() {
            return Err(Error::invalid(format!(
                "Keep needs at least one of last, best and every, each 1 or more. Received: {self:?}"
            )));
        }
        Ok(())
    }

    /// The numbers of the snapshots to keep, of one series.
    pub(crate) fn held(&self, series: &[&Snapshot]) -> BTreeSet<u64> {
        let mut by_number: Vec<_> = series.to_vec();
        by_number.sort_by_key(|s| std::cmp::Reverse(s.number));
        let mut held: BTreeSet<u64> = by_number.iter().take(self.last.unwrap_or(0)).map(|s| s.number).collect();
        held.extend(ranking(&by_number).iter().take(self.best.unwrap_or(0)).map(|s| s.number));
        if let Some(every) = self.every {
            let due = |s: &&&Snapshot| {
                s.body.batch.is_none() && s.body.epoch.is_some_and(|e| (e.unsigned_abs() + 1) % every == 0)
            };
            held.extend(by_number.iter().filter(due).map(|s| s.number));
        }
        held
    }
}

/// The snapshots with a value of the metric that the newest monitored snapshot names, the best first. Of equal values
/// the older one is first.
pub(crate) fn ranking<'a>(series: &[&'a Snapshot]) -> Vec<&'a Snapshot> {
    let newest =
        series.iter().filter(|s| s.body.monitor.is_some() && s.body.value().is_some()).max_by_key(|s| s.number);
    let Some(newest) = newest else { return vec![] };
    let sign = if newest.body.larger_is_better() { -1.0 } else { 1.0 };
    let same = |s: &&&Snapshot| {
        s.body.monitor == newest.body.monitor && s.body.mode == newest.body.mode && s.body.mode.is_some()
    };
    let mut ranked: Vec<(f64, &Snapshot)> =
        series.iter().filter(same).filter_map(|s| Some((sign * s.body.value()?, *s))).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.number.cmp(&b.1.number)));
    ranked.into_iter().map(|r| r.1).collect()
}
