//! MD5 of many streams at once. The 64 steps of a block depend on each other, which limits the speed of one stream. A
//! vector therefore has one stream in each lane.
//!
//! MD5 is here because object stores use it, not for security.

use super::level::Level;
use super::md5_one;
use super::md5_round::{BLOCK, Inputs, State};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// A digest that is computed piece by piece, with [`update_many`].
#[derive(Debug, Clone)]
pub(crate) struct Md5 {
    state: [u32; 4],
    /// The bytes after the last whole block.
    pending: [u8; BLOCK],
    len: u64,
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

impl Md5 {
    /// A digest of no bytes yet.
    pub(crate) fn new() -> Self {
        Self { state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], pending: [0; BLOCK], len: 0 }
    }

    fn pending_len(&self) -> usize {
        (self.len % BLOCK as u64) as usize
    }

    /// Takes bytes until a block is full or `input` ends. Returns the rest of `input`.
    fn fill<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let used = self.pending_len();
        let (bytes, rest) = input.split_at(input.len().min(BLOCK - used));
        self.pending[used..][..bytes.len()].copy_from_slice(bytes);
        self.len = self.len.wrapping_add(bytes.len() as u64);
        rest
    }

    /// The one or two blocks that end the message: the pending bytes, the padding, and the length in bits.
    fn ending(&self) -> ([[u8; BLOCK]; 2], usize) {
        let mut blocks = [[0; BLOCK]; 2];
        let used = self.pending_len();
        let count = (used + 1 + 8).div_ceil(BLOCK);
        let bytes = &mut blocks.as_flattened_mut()[..count * BLOCK];
        bytes[..used].copy_from_slice(&self.pending[..used]);
        bytes[used] = 0x80;
        bytes[count * BLOCK - 8..].copy_from_slice(&self.len.wrapping_mul(8).to_le_bytes());
        (blocks, count)
    }

    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (target, word) in bytes.chunks_exact_mut(4).zip(self.state) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The MD5 digest of each input, with the kernels of one level. It is fastest with 16 inputs of about the same length,
/// or with many more.
///
/// # Panics
/// If the processor lacks the level.
pub fn md5_many_at(level: Level, inputs: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut digests = vec![Md5::new(); inputs.len()];
    update_many(level, &mut digests, inputs);
    digest_many(level, digests)
}

/// Adds to each digest the input of the same index.
///
/// # Panics
/// If there are not as many inputs as digests, or if the processor lacks the level.
pub(crate) fn update_many(level: Level, digests: &mut [Md5], inputs: &[&[u8]]) {
    assert_eq!(digests.len(), inputs.len(), "one input per digest");
    let mut rests = inputs.to_vec();
    let mut jobs = Vec::new();
    for (digest, rest) in digests.iter_mut().zip(&mut rests) {
        if digest.pending_len() > 0 {
            *rest = digest.fill(rest);
            if digest.pending_len() == 0 {
                jobs.push(Job { state: &mut digest.state, blocks: std::slice::from_ref(&digest.pending) });
            }
        }
    }
    run(level, jobs);
    let mut jobs = Vec::new();
    for (digest, rest) in digests.iter_mut().zip(rests) {
        let (blocks, end) = rest.as_chunks();
        // If the input did not fill the pending block, nothing is left of it, and this does nothing.
        digest.len = digest.len.wrapping_add((blocks.len() * BLOCK) as u64);
        digest.fill(end);
        jobs.push(Job { state: &mut digest.state, blocks });
    }
    run(level, jobs);
}

/// Finishes each digest.
///
/// # Panics
/// If the processor lacks the level.
pub(crate) fn digest_many(level: Level, mut digests: Vec<Md5>) -> Vec<[u8; 16]> {
    let endings: Vec<_> = digests.iter().map(Md5::ending).collect();
    let blocks = endings.iter().map(|(blocks, count)| &blocks[..*count]);
    run(
        level,
        digests.iter_mut().zip(blocks).map(|(digest, blocks)| Job { state: &mut digest.state, blocks }).collect(),
    );
    digests.iter().map(Md5::bytes).collect()
}

/// Whole blocks that are added to one state.
struct Job<'a> {
    state: &'a mut [u32; 4],
    blocks: &'a [[u8; BLOCK]],
}

#[allow(unsafe_code)]
fn run(level: Level, jobs: Vec<Job<'_>>) {
    assert!(level.is_available(), "this processor does not have {}", level.name());
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            // SAFETY: the function needs nothing but AVX2, which is available.
            run_lanes::<{ avx2::LANES }>(jobs, |state, inputs| unsafe { avx2::md5_compress(state, inputs) });
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            // SAFETY: the function needs nothing but AVX-512 F and BW, which are available.
            run_lanes::<{ avx512::LANES }>(jobs, |state, inputs| unsafe { avx512::md5_compress(state, inputs) });
        }
        _ => run_portable(jobs),
    }
}

fn run_portable(jobs: Vec<Job<'_>>) {
    for job in jobs {
        md5_one::compress(job.state, job.blocks);
    }
}

/// Runs jobs in parallel: each lane takes the next job when its own is done.
///
/// The last job runs without lanes, which is faster.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
fn run_lanes<const LANES: usize>(mut jobs: Vec<Job<'_>>, compress: impl Fn(&mut State<LANES>, &Inputs<'_, LANES>)) {
    jobs.retain(|job| !job.blocks.is_empty());
    // Jobs are taken from the end of the vector, so the longest ones come first and all lanes end at about the same
    // time.
    jobs.sort_by_key(|job| job.blocks.len());
    let mut active = jobs.split_off(jobs.len().saturating_sub(LANES));
    while active.len() > 1 {
        let steps = active.iter().map(|job| job.blocks.len()).min().unwrap_or(0);
        // Lanes without a job repeat the first one.
        let job = |lane: usize| active.get(lane).unwrap_or(&active[0]);
        let mut state: State<LANES> = std::array::from_fn(|word| std::array::from_fn(|lane| job(lane).state[word]));
        compress(&mut state, &std::array::from_fn(|lane| &job(lane).blocks[..steps]));
        for (lane, job) in active.iter_mut().enumerate() {
            *job.state = state.map(|words| words[lane]);
            job.blocks = &job.blocks[steps..];
        }
        active.retain(|job| !job.blocks.is_empty());
        while active.len() < LANES
            && let Some(job) = jobs.pop()
        {
            active.push(job);
        }
    }
    run_portable(active);
}

#[cfg(test)]
mod tests {
    use md5::Digest;
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::available;

    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|n| ((n + seed).wrapping_mul(2_654_435_761) >> 11) as u8).collect()
    }

    fn check(inputs: &[&[u8]]) {
        let expected: Vec<[u8; 16]> = inputs.iter().map(|input| md5::Md5::digest(input).into()).collect();
        for level in available() {
            assert!(md5_many_at(level, inputs) == expected, "{level:?} of {} inputs", inputs.len());
        }
    }

    #[test]
    fn every_short_length() {
        let data = bytes(300, 1);
        let inputs: Vec<&[u8]> = (0..300).map(|len| &data[..len]).collect();
        check(&inputs);
        for count in 0..40 {
            check(&inputs[300 - count..]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn unequal_lengths(lens in prop::collection::vec(0usize..5000, 0..40)) {
            let inputs: Vec<Vec<u8>> = lens.iter().enumerate().map(|(seed, &len)| bytes(len, seed)).collect();
            check(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn piece_by_piece(pieces in prop::collection::vec(prop::collection::vec(0usize..200, 3), 0..12)) {
            let data = bytes(200 * 12, 9);
            for level in available() {
                let mut digests = vec![Md5::new(); 3];
                let mut whole = vec![md5::Md5::new(); 3];
                for lens in &pieces {
                    let inputs: Vec<&[u8]> = lens.iter().map(|&len| &data[len..2 * len]).collect();
                    update_many(level, &mut digests, &inputs);
                    whole.iter_mut().zip(inputs).for_each(|(digest, input)| digest.update(input));
                }
                let expected: Vec<[u8; 16]> = whole.into_iter().map(|digest| digest.finalize().into()).collect();
                prop_assert_eq!(digest_many(level, digests), expected);
            }
        }
    }
}
