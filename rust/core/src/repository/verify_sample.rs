//! Verification of a sample of the chunks. It finds much of the damage that a full verify finds, and reads far less.

use std::collections::HashSet;

use crate::chunks::placement::Location;
use crate::chunks::read::Scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::format::digest::{ChunkId, Digest};
use crate::repository::parts::Parts;
use crate::repository::verify::{Report, lost, verify};
use crate::storage;
use crate::task::Task;

/// Verifies a sample of the chunks; see [`crate::Repository::verify_sample`].
pub(super) fn verify_sample(parts: &Parts, share: f64, seed: u64, task: &Task<'_>) -> Result<Report> {
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::invalid(format!("the share of a sample must be between 0 and 1. Received: {share}")));
    }
    let mut report = verify(parts, false, task)?;
    let chunks = parts.packs.chunks()?;
    let placement = chunks.placement();
    let mut sorted: Vec<_> = placement.packs().collect();
    sorted.sort_by_key(|pack| pack.name);
    let all = sorted.iter().flat_map(|&pack| pack.entries.iter().map(move |entry| Location { pack, entry }));
    // The base of a delta may be gone if no snapshot needs the delta any more.
    let is_readable = |place: &Location<'_>| {
        place.entry.base.is_none_or(|base| placement.whole(&base, &HashSet::new()).next().is_some())
    };
    let chosen: Vec<_> = all.filter(|place| is_in_sample(&place.entry.id, share, seed) && is_readable(place)).collect();
    task.begin("reading a sample", chosen.iter().map(|place| u64::from(place.entry.encoded)).sum());
    let mut places = chosen.into_iter();
    let work = |(scratch, raw): &mut (Scratch, Vec<u8>), place: Location<'_>| {
        raw.resize(place.entry.raw as usize, 0);
        let bytes = u64::from(place.entry.encoded);
        match chunks.read_at(place, raw, scratch) {
            Ok(()) => Ok((bytes, None)),
            // A pack that a prune has deleted is not damaged. If the operating system cannot tell, that is an error.
            Err(_) if !storage::exists(&chunks.path(&place.pack.name))? => Ok((bytes, None)),
            Err(e) if e.kind() == ErrorKind::Io => Err(e),
            Err(e) => Ok((bytes, Some(((place.pack.name, place.entry.id), e.message().to_owned())))),
        }
    };
    let worker = || (Scratch::new(), vec![]);
    let mut damaged = HashSet::new();
    task.run(
        64,
        || Ok(places.next()),
        worker,
        work,
        |(bytes, problem)| {
            task.advance(bytes);
            report.chunks += 1;
            report.bytes += bytes;
            if let Some((place, problem)) = problem {
                report.problems.push(problem);
                damaged.insert(place);
            }
            Ok(())
        },
    )?;
    if !damaged.is_empty() {
        report.lost = lost(parts, &damaged, task)?;
    }
    Ok(report)
}

/// Whether a chunk is in the sample. The digest of seed and id is uniformly distributed, so each chunk is drawn
/// independently.
fn is_in_sample(id: &ChunkId, share: f64, seed: u64) -> bool {
    let drawn = Digest::of(&[&seed.to_le_bytes()[..], id.as_bytes()].concat());
    let number = u64::from_le_bytes(std::array::from_fn(|i| drawn.as_bytes()[i]));
    share >= 1.0 || (number as f64) < share * 2f64.powi(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_share_and_its_seed() {
        let ids: Vec<_> = (0u32..10_000).map(|i| Digest::of(&i.to_le_bytes())).collect();
        let drawn = |share, seed| ids.iter().filter(|id| is_in_sample(id, share, seed)).collect::<Vec<_>>();
        assert_eq!((drawn(0.0, 1).len(), drawn(1.0, 1).len()), (0, ids.len()));
        assert!((450..550).contains(&drawn(0.05, 1).len()));
        assert_eq!(drawn(0.05, 1), drawn(0.05, 1));
        assert_ne!(drawn(0.05, 1), drawn(0.05, 2));
    }
}
