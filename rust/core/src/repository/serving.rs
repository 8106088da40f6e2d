//! Serving a snapshot: its reader, and the packs that it needs.

use std::collections::HashSet;
use std::sync::Arc;

use crate::chunks::placement::Placement;
use crate::error::Result;
use crate::format::digest::PackName;
use crate::format::snapshot::Snapshot;
use crate::repository::parts::Parts;
use crate::restore::reader::{self, Reader};

/// A reader of a snapshot; see [`crate::Repository::reader`].
pub(super) fn reader(parts: &Parts, snapshot: &Snapshot) -> Result<Reader> {
    let (path, number) = (parts.paths.snapshot(snapshot.number), snapshot.number);
    match Reader::open_partly(parts.packs.chunks()?, snapshot) {
        Ok(reader) => Ok(reader.of_file(path, number, |e| parts.packs.explain(e))),
        Err(e) => Err(reader::told(parts.packs.explain(e), &path, number)),
    }
}

/// The packs that a snapshot needs; see [`crate::Repository::packs_of`].
pub(super) fn packs_of(parts: &Parts, snapshot: &Snapshot) -> Result<Vec<(PackName, u64)>> {
    let (placement, names) = serving(parts, snapshot)?;
    let mut packs: Vec<_> = names.iter().filter_map(|n| placement.pack(n)).map(|p| (p.name, p.length)).collect();
    packs.sort();
    Ok(packs)
}

/// The placement of a snapshot; see [`crate::Repository::placement_bytes`].
pub(super) fn placement_bytes(parts: &Parts, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let (placement, names) = serving(parts, snapshot)?;
    Ok(placement.to_bytes(&names))
}

/// The packs that a snapshot needs, and the placement in which they were found: a later placement may have other packs.
fn serving(parts: &Parts, snapshot: &Snapshot) -> Result<(Arc<Placement>, HashSet<PackName>)> {
    let chunks = parts.packs.chunks()?;
    let placement = chunks.shared_placement();
    let reader = Reader::open(chunks, snapshot);
    let told = |e| reader::told(parts.packs.explain(e), &parts.paths.snapshot(snapshot.number), snapshot.number);
    Ok((placement, reader.map_err(told)?.packs()))
}
