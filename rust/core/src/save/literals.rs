//! Literals: the bytes of a file outside its tensors. They are cut by content.

use crate::error::Result;
use crate::layout::pieces::Layout;
use crate::layout::source::{StateSource, read_literals};

/// Cuts the literal bytes of a file by content, one chunk at a time.
pub(super) struct Cutter<'a> {
    pub(super) layout: &'a Layout,
    pub(super) source: &'a dyn StateSource,
    pub(super) file: usize,
    pub(super) len: u64,
    pub(super) cdc: (usize, usize, usize),
    pub(super) at: u64,
    pub(super) held: Vec<u8>,
}

impl Cutter<'_> {
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let (_, _, max) = self.cdc;
        if self.held.len() < max && self.at < self.len {
            let old = self.held.len();
            // Two of the largest chunks are read at a time, so that bytes are not moved for every small chunk.
            let more = (2 * max - old).min(usize::try_from(self.len - self.at).unwrap_or(usize::MAX));
            self.held.resize(old + more, 0);
            read_literals(self.source, self.layout, self.file, self.at, &mut self.held[old..])?;
            self.at += more as u64;
        }
        if self.held.is_empty() {
            return Ok(None);
        }
        let (min, avg, max) = self.cdc;
        // Only the first cut is used. It needs a look-ahead of `max` bytes, which are there unless the file ends.
        let window = &self.held[..self.held.len().min(max)];
        let n = if window.len() <= min {
            window.len()
        } else {
            fastcdc::v2020::FastCDC::new(window, min, avg, max).next().map_or(window.len(), |c| c.length)
        };
        let rest = self.held.split_off(n);
        Ok(Some(std::mem::replace(&mut self.held, rest)))
    }
}
