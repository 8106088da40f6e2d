//! MD5 of one stream, in plain Rust.
//!
//! Each of the 64 steps of a block depends on the step before, so the latency of this chain is what counts. The
//! compiler, left alone, makes the chain longer: it regroups the additions, and prefers fewer instructions that depend
//! on each other.

use super::md5_round::{BLOCK, SINES, md5_round};

/// Adds whole blocks to a digest.
pub(super) fn compress(state: &mut [u32; 4], blocks: &[[u8; BLOCK]]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for block in blocks {
        let words: [u32; 16] = std::array::from_fn(|n| u32::from_le_bytes(block.as_chunks().0[n]));
        let before = (a, b, c, d);
        md5_round!((a, b, c, d), words, mix1, 0, |n| n, (7, 25), (12, 20), (17, 15), (22, 10));
        md5_round!((a, b, c, d), words, mix2, 16, |n| 5 * n + 1, (5, 27), (9, 23), (14, 18), (20, 12));
        md5_round!((a, b, c, d), words, mix3, 32, |n| 3 * n + 5, (4, 28), (11, 21), (16, 16), (23, 9));
        md5_round!((a, b, c, d), words, mix4, 48, |n| 7 * n, (6, 26), (10, 22), (15, 17), (21, 11));
        (a, b, c, d) = (add(a, before.0), add(b, before.1), add(c, before.2), add(d, before.3));
    }
    *state = [a, b, c, d];
}

/// The same word, but the compiler does not know how it was computed.
#[inline]
#[allow(unsafe_code, asm_sub_register, reason = "the register is only named in a comment")]
fn settled(word: u32) -> u32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut word = word;
        // SAFETY: this emits no instruction. The operand stands in a comment because the syntax demands that it is
        // used.
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) word, options(pure, nomem, nostack, preserves_flags));
        }
        word
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    word
}

fn splat(word: u32) -> u32 {
    word
}

fn add(x: u32, y: u32) -> u32 {
    x.wrapping_add(y)
}

fn rotate_left<const BY: u32, const REST: u32>(x: u32) -> u32 {
    x.rotate_left(BY)
}

fn mix1(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    add(settled(sum), d ^ (b & (c ^ d)))
}

/// `b` is the word that is computed last. The part that does not need it is added first; the two parts share no bit.
fn mix2(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    add(settled(add(sum, c & !d)), b & d)
}

fn mix3(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    add(settled(sum), b ^ settled(c ^ d))
}

fn mix4(sum: u32, b: u32, c: u32, d: u32) -> u32 {
    add(settled(sum), c ^ (b | !d))
}
