//! The sampler: looks at a sample of a chunk and plans how to encode it.
//!
//! A sample is 2048 elements, in runs of 64 that are spread over the chunk. It estimates the entropy of a plane to
//! about one percent, and takes a fiftieth of the time that encoding 1 MiB takes.

use std::sync::LazyLock;

use super::plan::{FRACTION, MAX_WIDTH, Plan, Sample};
use super::steps::{self, Form};
use crate::format::dtype::{Class, Element};
use crate::kernels::{self, Level};

const RUNS: usize = 32;
const RUN: usize = 64;
const SAMPLE: usize = RUNS * RUN;
/// log2 of the slots of the table of words. A sample of float32 has as many words as the table has slots.
const SLOTS_LOG: u32 = 10;

/// Takes samples. It keeps its buffers.
pub(super) struct Sampler {
    elements: Vec<u8>,
    base: Vec<u8>,
    planes: Vec<u8>,
    words: Vec<u64>,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            elements: Vec::new(),
            base: Vec::new(),
            planes: vec![0; SAMPLE * MAX_WIDTH],
            words: vec![0; 1 << SLOTS_LOG],
        }
    }

    /// Samples `raw`, which has a whole number of elements, at least one.
    pub(super) fn take(&mut self, raw: &[u8], element: Element) -> Sample {
        gather(&mut self.elements, raw, element.width);
        self.look(element)
    }

    /// Samples the steps from `base` to `raw`, which has the same length.
    pub(super) fn take_steps(&mut self, raw: &[u8], base: &[u8], width: usize, form: Form) -> Sample {
        let Self { elements, base: sampled, planes, .. } = self;
        gather(elements, raw, width);
        gather(sampled, base, width);
        // The buffer of the planes is not in use yet.
        let steps = &mut planes[..elements.len()];
        steps::difference(elements, sampled, width, form, steps);
        elements.copy_from_slice(steps);
        self.look(Element { width, class: Class::Integer })
    }

    fn look(&mut self, element: Element) -> Sample {
        let width = element.width;
        let repetitive = repeats(&mut self.words, &self.elements);
        // The exponent of float32 straddles two bytes, so rotation always helps. The exponents of float16 and float64
        // are narrower and wider, and bfloat16 is as wide as float16: both are tried.
        let rotations: &[bool] = match (element.class, width) {
            (Class::Float, 4) => &[true],
            (Class::Float, 2 | 8) => &[true, false],
            _ => &[false],
        };
        let mut best = (u64::MAX, false, [Plan::Store; MAX_WIDTH]);
        for &rotate in rotations {
            let (cost, plans) = self.plan(width, rotate);
            if cost < best.0 {
                best = (cost, rotate, plans);
            }
        }
        Sample { rotate: best.1, repetitive, plans: best.2, cost: (best.0, self.elements.len()) }
    }

    /// The plan of each plane, and the bits that all planes would take, in fixed point.
    fn plan(&mut self, width: usize, rotate: bool) -> (u64, [Plan; MAX_WIDTH]) {
        let count = self.elements.len() / width;
        let mut targets: [&mut [u8]; MAX_WIDTH] = Default::default();
        for (target, plane) in targets.iter_mut().zip(self.planes.chunks_exact_mut(count)).take(width) {
            *target = plane;
        }
        kernels::split_at(Level::Portable, &self.elements, rotate, &mut targets[..width]);
        let mut plans = [Plan::Store; MAX_WIDTH];
        let mut cost = 0;
        for (plan, plane) in plans.iter_mut().zip(self.planes.chunks_exact(count)).take(width) {
            let bits;
            (*plan, bits) = judge(&mut self.words, plane);
            cost += bits;
        }
        (cost, plans)
    }
}

/// Copies the sampled elements to `elements`. Runs begin at multiples of 8 elements, so that data which repeats at such
/// distances looks equal.
fn gather(elements: &mut Vec<u8>, raw: &[u8], width: usize) {
    elements.clear();
    let count = raw.len() / width;
    if count <= SAMPLE {
        elements.extend_from_slice(raw);
        return;
    }
    for run in 0..RUNS {
        let start = (count - RUN) / (RUNS - 1) * run / 8 * 8;
        elements.extend_from_slice(&raw[start * width..][..RUN * width]);
    }
}

/// The plan of a plane, and its cost in bits, in fixed point.
fn judge(words: &mut [u64], plane: &[u8]) -> (Plan, u64) {
    let stored = (plane.len() as u64 * 8) << FRACTION;
    let (symbols, entropy) = entropy(plane);
    if symbols == 1 {
        return (Plan::Constant, 0);
    }
    if repeats(words, plane) {
        return (Plan::Search, entropy.min(stored));
    }
    // A Huffman code takes at least one bit per byte. A gain below 3 % is not worth the time that decoding takes.
    let huffman = entropy.max(stored / 8);
    if huffman < stored - stored / 32 { (Plan::Huffman, huffman) } else { (Plan::Store, stored) }
}

/// The number of distinct bytes, and the bits that an ideal order-0 code takes for all bytes, in fixed point.
///
/// The entropy of a sample is smaller than that of its source; the Miller-Madow term corrects for that.
fn entropy(bytes: &[u8]) -> (usize, u64) {
    let mut counts = [0u16; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let log = &*LOG2;
    let mut symbols = 0;
    let mut sum = 0;
    for &count in &counts {
        symbols += usize::from(count > 0);
        sum += u64::from(count) * u64::from(log[usize::from(count)]);
    }
    let total = bytes.len() as u64 * u64::from(log[bytes.len()]);
    /// 1 / (2 ln 2) in fixed point.
    const MILLER_MADOW: u64 = 47274;
    (symbols, total - sum + (symbols as u64 - 1) * MILLER_MADOW)
}

/// log2(n) in fixed point, for every count that a sample can have.
///
/// It is computed in integers, because the last bit of a floating-point logarithm differs between machines.
static LOG2: LazyLock<Vec<u32>> = LazyLock::new(|| (0..=SAMPLE as u32).map(log2).collect());

fn log2(n: u32) -> u32 {
    if n == 0 {
        return 0;
    }
    let whole = n.ilog2();
    let mut mantissa = u64::from(n) << (31 - whole); // 1.0 ≤ mantissa < 2.0 with 31 fractional bits
    let mut result = whole;
    for _ in 0..FRACTION {
        mantissa = (mantissa * mantissa) >> 31;
        result <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            result |= 1;
        }
    }
    result
}

/// Whether at least an eighth of the 8-byte words occurred before. Above 1.2 bits per byte that does not happen by
/// chance.
fn repeats(seen: &mut [u64], bytes: &[u8]) -> bool {
    seen.fill(u64::MAX);
    let words = bytes.len() / 8;
    let mut again = 0;
    for word in bytes.chunks_exact(8) {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        let slot = &mut seen[(word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOTS_LOG)) as usize];
        again += usize::from(*slot == word);
        *slot = word;
    }
    words > 0 && again * 8 >= words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms() {
        for n in 1..=SAMPLE as u32 {
            let exact = f64::from(n).log2() * f64::from(1u32 << FRACTION);
            assert!((f64::from(log2(n)) - exact).abs() < 1.5, "{n}");
        }
    }
}
