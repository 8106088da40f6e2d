//! Plans: how each byte plane of a chunk is encoded. The sampler makes them, the encoder of planes follows them.

/// The most planes of a chunk: the widest element has 8 bytes.
pub(super) const MAX_WIDTH: usize = 8;

/// Fractional bits of fixed-point numbers.
pub(super) const FRACTION: u32 = 16;

/// How a plane is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Stored as it is.
    Store,
    /// Huffman-coded: its bytes have unequal frequencies, but it does not repeat itself.
    Huffman,
    /// Searched for matches: it repeats itself.
    Search,
    /// One value, in the sample at least.
    Constant,
}

/// What a sample says about a chunk.
#[derive(Debug)]
pub(super) struct Sample {
    /// Whether rotated elements make smaller planes.
    pub(super) rotate: bool,
    /// Whether the chunk repeats itself across planes, so that zstd over the whole chunk may be smaller.
    pub(super) repetitive: bool,
    /// One plan per plane.
    pub(super) plans: [Plan; MAX_WIDTH],
    /// Estimated size of the sample's planes in bits, in fixed point, and the length of the sample in bytes.
    pub(super) cost: (u64, usize),
}

impl Sample {
    /// Whether an encoding other than the raw bytes is worth trying.
    pub(super) fn is_promising(&self) -> bool {
        self.repetitive || self.plans.iter().any(|&plan| plan != Plan::Store)
    }

    /// Estimated size, in bytes, of the planes of a chunk of `len` bytes.
    pub(super) fn estimate(&self, len: usize) -> usize {
        let (bits, sampled) = self.cost;
        ((bits >> FRACTION) as usize / 8).saturating_mul(len) / sampled.max(1)
    }
}
