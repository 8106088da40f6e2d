//! What to do with each byte plane of a chunk: what a sample gives, and byte planes are made by.

/// Most planes that there can be: the widest element has 8 bytes.
pub(super) const MAX_WIDTH: usize = 8;

/// Fractional bits of the fixed-point logarithms.
pub(super) const FRACTION: u32 = 16;

/// What to do with a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Leave it as it is.
    Store,
    /// Bytes of unequal frequency, without repetition.
    Huffman,
    /// There is repetition.
    Search,
    /// One value, as far as the sample goes.
    Constant,
}

/// The result.
#[derive(Debug)]
pub(super) struct Sample {
    /// Rotating the elements makes the planes smaller.
    pub(super) rotate: bool,
    /// The chunk repeats itself across planes, so zstd over the whole of it may win.
    pub(super) repetitive: bool,
    /// One plan per plane.
    pub(super) plans: [Plan; MAX_WIDTH],
    /// Bits that the planes of the sample would take, in fixed point, and its bytes.
    pub(super) cost: (u64, usize),
}

impl Sample {
    /// Whether anything but storing the bytes is worth a try.
    pub(super) fn is_promising(&self) -> bool {
        self.repetitive || self.plans.iter().any(|&plan| plan != Plan::Store)
    }

    /// Bytes that the planes of a chunk of `len` bytes will take, as far as the sample goes.
    pub(super) fn estimate(&self, len: usize) -> usize {
        let (bits, sampled) = self.cost;
        ((bits >> FRACTION) as usize / 8).saturating_mul(len) / sampled.max(1)
    }
}
