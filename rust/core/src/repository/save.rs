//! A save into a repository: from opening a session to the commit (docs/format.md §§8, 9).

use std::collections::HashSet;
use std::sync::Arc;

use crate::codec::CodecChoice;
use crate::error::{Error, Result};
use crate::format::digest::PackName;
use crate::format::snapshot::{Body, Snapshot};
use crate::layout::pieces::Layout;
use crate::layout::source::StateSource;
use crate::repository::parts::Parts;
use crate::repository::session::{self, Session};
use crate::save::bases::Bases;
use crate::save::writer::{Options, Writer};
use crate::storage;
use crate::task::Task;

/// A save or an import that is running.
pub(crate) struct Saving {
    pub(crate) session: Session,
    /// Packs that this save must not use.
    pub(crate) condemned: HashSet<PackName>,
}

/// Saves a state and commits a snapshot; see [`crate::Repository::save`].
pub(super) fn save(
    parts: &Parts,
    mut body: Body,
    layout: &Layout,
    source: &dyn StateSource,
    codec: CodecChoice,
    task: &Task<'_>,
) -> Result<Arc<Snapshot>> {
    if body.series.is_empty() {
        return Err(Error::invalid("a snapshot needs the name of its series"));
    }
    let Saving { session, condemned } = begin_save(parts)?;
    let known = parts.packs.chunks()?;
    let newest = parts.snapshots.newest(&body.series);
    // As many bytes as were new in the newest save of the series; for a first save, the whole state.
    let expected_new = newest.as_ref().map_or(layout.length, |s| s.body.bytes_new.min(layout.length));
    let settings = Options { codec, expected_new };
    let bases = newest.filter(|_| codec.delta_share().is_some()).and_then(|newest| {
        // If the newest version is damaged, this one is saved without bases.
        Bases::find(&known, &newest, layout, &condemned).ok()
    });
    let writer = Writer::new(layout, source, known.placement(), &condemned, bases.as_ref(), settings, task);
    let written = writer.write(session.folder(), &parts.paths.packs())?;
    drop(bases);
    drop(known);
    if written.deltas {
        body.required.push("delta".into());
    }
    if layout.structure.files.iter().any(|file| !file.variables.is_empty()) {
        body.optional.push("variables".into());
    }
    body.session = session.name().to_owned();
    body.bytes_total = layout.length;
    body.bytes_new = written.bytes_new;
    body.bytes_stored = written.bytes_stored;
    body.state = written.state;
    let snapshot = parts.snapshots.commit(&body.seal()?, &session)?;
    parts.packs.add(written.packs);
    Ok(snapshot)
}

/// Begins a save or an import. From now on a prune deletes no pack that is not condemned already.
pub(crate) fn begin_save(parts: &Parts) -> Result<Saving> {
    let session = Session::begin(parts.root())?;
    if session.locks_work() {
        session::sweep(parts.root())?;
    }
    parts.settle()?;
    storage::create_dir(&parts.paths.packs())?;
    let condemned = parts.condemned.for_save()?;
    let known = parts.packs.refresh()?;
    let condemned = condemned.unwrap_or_else(|| known.packs().map(|p| p.name).collect());
    Ok(Saving { session, condemned })
}
