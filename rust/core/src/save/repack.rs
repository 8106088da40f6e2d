//! Repack: stores chunks again that are in mostly unused packs, and deltas for which a restore would read too much.

use std::collections::{HashMap, HashSet};

use crate::chunks::placement::{Pack, Stored};
use crate::error::{Error, Result};
use crate::format::digest::ChunkId;
use crate::format::pack::Kind;
use crate::layout::pieces::Piece;
use crate::layout::source::read_literals;
use crate::save::chunk::Job;
use crate::save::tree::Tree;
use crate::save::writer::{Filling, Scratch, Writer};

impl Writer<'_> {
    /// Stores live chunks of mostly unused packs again, so that the packs of the newest snapshot are not much larger
    /// than its chunks. It writes at most as many bytes as this save has added.
    pub(super) fn repack(&self, tree: &Tree, filling: &mut Filling) -> Result<()> {
        if filling.budget.bytes_encoded == 0 {
            return Ok(());
        }
        let closure: HashSet<ChunkId> =
            tree.closure().filter(|id| self.cost(id).is_some() && !filling.packs.has(id)).collect();
        let mut chosen = self.overdrawn(tree, filling);
        self.choose_sparse(&closure, filling, &mut chosen)?;
        if chosen.is_empty() {
            return Ok(());
        }
        // These chunks have outlived their pack, and will probably outlive the new ones. In a pack of their own they
        // need not be stored again.
        filling.packs.begin_another()?;
        self.store_again(tree, &chosen, filling)
    }

    /// Deltas of earlier versions that must be stored whole, because the restore budget is now exceeded.
    fn overdrawn(&self, tree: &Tree, filling: &Filling) -> HashSet<ChunkId> {
        let (mut credit, mut chosen) = (filling.budget.credit, HashSet::new());
        for id in tree.content.iter().map(|c| c.id).filter(|id| !filling.packs.has(id)) {
            let owed = self.cost(&id).filter(|cost| credit < 0 && cost.credit() < 0);
            if let Some(cost) = owed.filter(|_| chosen.insert(id)) {
                credit += cost.reads as i64 - cost.whole as i64;
            }
        }
        chosen
    }

    /// Chooses chunks of mostly unused packs, the least used pack first.
    fn choose_sparse(
        &self,
        closure: &HashSet<ChunkId>,
        filling: &Filling,
        chosen: &mut HashSet<ChunkId>,
    ) -> Result<()> {
        let mut budget = filling.budget.bytes_encoded;
        let alive = closure.iter().chain(&filling.budget.bases).copied().collect();
        let serving = self.known.serve(&alive)?;
        let mut sparse: Vec<(&Pack, u64)> = self.known.sparse(&serving).collect();
        // Fractions are compared by cross-multiplication.
        sparse.sort_by(|a, b| {
            (u128::from(a.1) * u128::from(b.0.length))
                .cmp(&(u128::from(b.1) * u128::from(a.0.length)))
                .then(a.0.name.cmp(&b.0.name))
        });
        let served_on = self.served_on(closure);
        let entries = sparse.iter().flat_map(|(pack, _)| pack.entries.iter().map(|e| (pack.name, e)));
        for (_, entry) in entries.filter(|(name, e)| serving.pack_of.get(&e.id) == Some(name)) {
            // A base that is not in the state: the deltas that need it are stored whole instead.
            let ids = if closure.contains(&entry.id) {
                vec![entry.id]
            } else {
                served_on.get(&entry.id).cloned().unwrap_or_default()
            };
            let encoded: u64 = ids.iter().filter_map(|id| self.cost(id)).map(|cost| cost.whole).sum();
            if encoded <= budget && !filling.budget.bases.contains(&entry.id) {
                budget -= encoded;
                chosen.extend(ids);
            }
        }
        Ok(())
    }

    /// The deltas of the closure, by the id of their base.
    fn served_on(&self, closure: &HashSet<ChunkId>) -> HashMap<ChunkId, Vec<ChunkId>> {
        let mut found: HashMap<ChunkId, Vec<ChunkId>> = HashMap::new();
        for id in closure {
            if let Some(Stored::Delta(base)) = self.known.stored(id, self.condemned) {
                found.entry(base).or_default().push(*id);
            }
        }
        found
    }

    /// Reads the chosen chunks from the source again, and stores them whole.
    fn store_again(&self, tree: &Tree, chosen: &HashSet<ChunkId>, filling: &mut Filling) -> Result<()> {
        let mut scratch = Scratch::new();
        let mut at = 0;
        for entry in &tree.content {
            let start = at;
            at += u64::from(entry.len);
            if !chosen.contains(&entry.id) || filling.packs.has(&entry.id) {
                continue;
            }
            self.task.check()?;
            let index = self.layout.starts.partition_point(|&s| s <= start) - 1;
            let job = match &self.layout.pieces[index] {
                Piece::Literals { file, .. } => {
                    let mut bytes = vec![0; entry.len as usize];
                    read_literals(self.source, self.layout, *file, start - self.layout.starts[index], &mut bytes)?;
                    Job::Bytes(bytes, Kind::Content)
                }
                piece => Job::Piece(piece, None),
            };
            let chunk = self.chunk(&mut scratch, job, true)?;
            if chunk.id() != *entry {
                return Err(Error::invalid(
                    "the state changed while it was being saved; nothing was saved. Save again",
                ));
            }
            filling.add(chunk, false)?;
        }
        for (id, kind, bytes) in &tree.metadata {
            if chosen.contains(&id.id) && !filling.packs.has(&id.id) {
                filling.add(self.chunk(&mut scratch, Job::Bytes(bytes.clone(), *kind), true)?, false)?;
            }
        }
        Ok(())
    }
}
