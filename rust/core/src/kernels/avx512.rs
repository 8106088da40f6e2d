//! Kernels with AVX-512 (F and BW).
//!
//! As with AVX2, the only unsafe operations are loads and stores through references of the right size.

use std::arch::x86_64::*;

use super::md5_round::{Inputs, SINES, State, md5_compress, md5_round};

/// Bytes of a vector.
const V: usize = 64;
/// Streams that MD5 digests at once: the 32-bit lanes of a vector.
pub(super) const LANES: usize = 16;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
#[allow(unsafe_code)]
fn load(src: &[u8; V]) -> __m512i {
    // SAFETY: the reference is valid for reads of 64 bytes; `loadu` needs no alignment.
    unsafe { _mm512_loadu_si512(src.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
#[allow(unsafe_code)]
fn store(dst: &mut [u8; V], vector: __m512i) {
    // SAFETY: the exclusive reference is valid for writes of 64 bytes; `storeu` needs no alignment.
    unsafe { _mm512_storeu_si512(dst.as_mut_ptr().cast(), vector) }
}

/// Splits all whole blocks. Returns the number of elements done.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn split(src: &[u8], rotate: bool, planes: &mut [&mut [u8]]) -> usize {
    match (planes, rotate) {
        ([a, b], false) => split2::<false>(src, a, b),
        ([a, b], true) => split2::<true>(src, a, b),
        ([a, b, c, d], false) => split4::<false>(src, [a, b, c, d]),
        ([a, b, c, d], true) => split4::<true>(src, [a, b, c, d]),
        ([a, b, c, d, e, f, g, h], false) => split8::<false>(src, [a, b, c, d, e, f, g, h]),
        ([a, b, c, d, e, f, g, h], true) => split8::<true>(src, [a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// Merges all whole blocks. Returns the number of elements done.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn merge(planes: &[&[u8]], rotate: bool, dst: &mut [u8]) -> usize {
    match (planes, rotate) {
        (&[a, b], false) => merge2::<false>(a, b, dst),
        (&[a, b], true) => merge2::<true>(a, b, dst),
        (&[a, b, c, d], false) => merge4::<false>([a, b, c, d], dst),
        (&[a, b, c, d], true) => merge4::<true>([a, b, c, d], dst),
        (&[a, b, c, d, e, f, g, h], false) => merge8::<false>([a, b, c, d, e, f, g, h], dst),
        (&[a, b, c, d, e, f, g, h], true) => merge8::<true>([a, b, c, d, e, f, g, h], dst),
        _ => 0,
    }
}

/// The even bytes of `x`, then those of `y`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn even_bytes(x: __m512i, y: __m512i) -> __m512i {
    let low = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(x));
    _mm512_inserti64x4(low, _mm512_cvtepi16_epi8(y), 1)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn split2<const ROTATE: bool>(src: &[u8], low: &mut [u8], high: &mut [u8]) -> usize {
    let (blocks, _) = src.as_chunks::<{ 2 * V }>();
    let rotl = |x| if ROTATE { _mm512_or_si512(_mm512_slli_epi16(x, 1), _mm512_srli_epi16(x, 15)) } else { x };
    let targets = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
    for (block, (low, high)) in blocks.iter().zip(targets) {
        let (rows, _) = block.as_chunks();
        let (x, y) = (rotl(load(&rows[0])), rotl(load(&rows[1])));
        store(low, even_bytes(x, y));
        store(high, even_bytes(_mm512_srli_epi16(x, 8), _mm512_srli_epi16(y, 8)));
    }
    blocks.len() * V
}

#[target_feature(enable = "avx512f,avx512bw")]
fn merge2<const ROTATE: bool>(low: &[u8], high: &[u8], dst: &mut [u8]) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<{ 2 * V }>();
    let done = blocks.len() * V;
    let rotr = |x| if ROTATE { _mm512_or_si512(_mm512_srli_epi16(x, 1), _mm512_slli_epi16(x, 15)) } else { x };
    let join =
        |low, high| rotr(_mm512_or_si512(_mm512_cvtepu8_epi16(low), _mm512_slli_epi16(_mm512_cvtepu8_epi16(high), 8)));
    for (block, (low, high)) in blocks.iter_mut().zip(low.as_chunks().0.iter().zip(high.as_chunks().0)) {
        let (low, high) = (load(low), load(high));
        let (rows, _) = block.as_chunks_mut();
        store(&mut rows[0], join(_mm512_castsi512_si256(low), _mm512_castsi512_si256(high)));
        store(&mut rows[1], join(_mm512_extracti64x4_epi64(low, 1), _mm512_extracti64x4_epi64(high, 1)));
    }
    done
}

/// Transposes 4 × 4 bytes in each quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes_4x4() -> __m512i {
    _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15))
}

/// Transposes 4 × 4 words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn words_4x4() -> __m512i {
    _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn split4<const ROTATE: bool>(src: &[u8], planes: [&mut [u8]; 4]) -> usize {
    let (blocks, _) = src.as_chunks::<{ 4 * V }>();
    let (bytes, words) = (bytes_4x4(), words_4x4());
    let [a, b, c, d] = planes.map(|plane| plane.as_chunks_mut().0.iter_mut());
    for ((((block, a), b), c), d) in blocks.iter().zip(a).zip(b).zip(c).zip(d) {
        let (rows, _) = block.as_chunks();
        // Quarter p of each row becomes its share of plane p.
        let row = |k: usize| {
            let x = load(&rows[k]);
            let x = if ROTATE { _mm512_rol_epi32(x, 1) } else { x };
            _mm512_permutexvar_epi32(words, _mm512_shuffle_epi8(x, bytes))
        };
        let planes = transpose4([row(0), row(1), row(2), row(3)]);
        for (target, plane) in [a, b, c, d].into_iter().zip(planes) {
            store(target, plane);
        }
    }
    blocks.len() * V
}

#[target_feature(enable = "avx512f,avx512bw")]
fn merge4<const ROTATE: bool>(planes: [&[u8]; 4], dst: &mut [u8]) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<{ 4 * V }>();
    let done = blocks.len() * V;
    let (bytes, words) = (bytes_4x4(), words_4x4());
    let [a, b, c, d] = planes.map(|plane| plane.as_chunks().0.iter());
    for ((((block, a), b), c), d) in blocks.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        let rows = transpose4([load(a), load(b), load(c), load(d)]);
        for (target, row) in block.as_chunks_mut().0.iter_mut().zip(rows) {
            let x = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, row), bytes);
            store(target, if ROTATE { _mm512_ror_epi32(x, 1) } else { x });
        }
    }
    done
}

#[target_feature(enable = "avx512f,avx512bw")]
fn split8<const ROTATE: bool>(src: &[u8], planes: [&mut [u8]; 8]) -> usize {
    let (blocks, _) = src.as_chunks::<{ 8 * V }>();
    let pairs = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    // Pair p of quarter q goes to place q of eighth p.
    let eighths = pair_index(|place| place % 4 * 8 + place / 4);
    let mut planes = planes.map(|plane| plane.as_chunks_mut().0.iter_mut());
    for block in blocks {
        let (rows, _) = block.as_chunks();
        let row = |k: usize| {
            let x = load(&rows[k]);
            let x = if ROTATE { _mm512_rol_epi64(x, 1) } else { x };
            _mm512_permutexvar_epi16(eighths, _mm512_shuffle_epi8(x, pairs))
        };
        let shares = transpose8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
        for (target, share) in planes.iter_mut().filter_map(Iterator::next).zip(shares) {
            store(target, share);
        }
    }
    blocks.len() * V
}

#[target_feature(enable = "avx512f,avx512bw")]
fn merge8<const ROTATE: bool>(planes: [&[u8]; 8], dst: &mut [u8]) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<{ 8 * V }>();
    let done = blocks.len() * V;
    let pairs = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    let quarters = pair_index(|place| place % 8 * 4 + place / 8);
    let planes = planes.map(|plane| plane.as_chunks().0);
    for (index, block) in blocks.iter_mut().enumerate() {
        let row = |p: usize| load(&planes[p][index]);
        let rows = transpose8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
        for (target, row) in block.as_chunks_mut().0.iter_mut().zip(rows) {
            let x = _mm512_shuffle_epi8(_mm512_permutexvar_epi16(quarters, row), pairs);
            store(target, if ROTATE { _mm512_ror_epi64(x, 1) } else { x });
        }
    }
    done
}

/// The index vector of a permutation of the 32 pairs of bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pair_index(source: impl Fn(u8) -> u8) -> __m512i {
    let mut bytes = [0; V];
    for (place, pair) in (0..).zip(bytes.as_chunks_mut::<2>().0) {
        pair[0] = source(place);
    }
    load(&bytes)
}

/// Transposes 4 × 4 quarters of 128 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose4([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_shuffle_i32x4(a, b, 0b01_00_01_00), _mm512_shuffle_i32x4(c, d, 0b01_00_01_00));
    let (ab_high, cd_high) = (_mm512_shuffle_i32x4(a, b, 0b11_10_11_10), _mm512_shuffle_i32x4(c, d, 0b11_10_11_10));
    [
        _mm512_shuffle_i32x4(ab, cd, 0b10_00_10_00),
        _mm512_shuffle_i32x4(ab, cd, 0b11_01_11_01),
        _mm512_shuffle_i32x4(ab_high, cd_high, 0b10_00_10_00),
        _mm512_shuffle_i32x4(ab_high, cd_high, 0b11_01_11_01),
    ]
}

/// Transposes 8 × 8 words of 64 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose8([a, b, c, d, e, f, g, h]: [__m512i; 8]) -> [__m512i; 8] {
    let even = |x, y| _mm512_unpacklo_epi64(x, y);
    let odd = |x, y| _mm512_unpackhi_epi64(x, y);
    let [i, k, m, o] = transpose4([even(a, b), even(c, d), even(e, f), even(g, h)]);
    let [j, l, n, p] = transpose4([odd(a, b), odd(c, d), odd(e, f), odd(g, h)]);
    [i, j, k, l, m, n, o, p]
}

/// Vector q has columns q, 4 + q, 8 + q and 12 + q of four rows of 32-bit words, one in each quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn columns(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Vector n has word n of the block of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn message(inputs: &Inputs<'_, LANES>, step: usize) -> [__m512i; 16] {
    let row = |lane: usize| load(&inputs[lane][step]);
    let four = |k: usize| columns(row(k), row(k + 1), row(k + 2), row(k + 3));
    let (p, q, r, s) = (four(0), four(4), four(8), four(12));
    let quarter = |k: usize| transpose4([p[k], q[k], r[k], s[k]]);
    let ([a, e, i, m], [b, f, j, n]) = (quarter(0), quarter(1));
    let ([c, g, k, o], [d, h, l, p]) = (quarter(2), quarter(3));
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn lanes(words: [u32; LANES]) -> __m512i {
    let mut bytes = [0; V];
    for (target, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *target = word.to_le_bytes();
    }
    load(&bytes)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unlanes(vector: __m512i) -> [u32; LANES] {
    let mut bytes = [0; V];
    store(&mut bytes, vector);
    std::array::from_fn(|lane| u32::from_le_bytes(bytes.as_chunks().0[lane]))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn splat(word: u32) -> __m512i {
    _mm512_set1_epi32(word as i32)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add(x: __m512i, y: __m512i) -> __m512i {
    _mm512_add_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn rotate_left<const BY: i32, const REST: i32>(x: __m512i) -> __m512i {
    _mm512_rol_epi32(x, BY)
}

// The tables of the mixing functions: bit b·4 + c·2 + d is the result for these bits of b, c and d.

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn mix1(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(sum, _mm512_ternarylogic_epi32(b, c, d, 0xCA))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn mix2(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(sum, _mm512_ternarylogic_epi32(b, c, d, 0xE4))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn mix3(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(sum, _mm512_ternarylogic_epi32(b, c, d, 0x96))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn mix4(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(sum, _mm512_ternarylogic_epi32(b, c, d, 0x39))
}

md5_compress!("avx512f,avx512bw");
