//! Kernels with AVX2.
//!
//! The only unsafe operations are in [`load`] and [`store`]. Everything else is bounds-checked slices and instructions
//! without side effects.

use std::arch::x86_64::*;

use super::md5_round::{Inputs, SINES, State, md5_compress, md5_round};

/// Bytes of a vector.
const V: usize = 32;
/// Streams that MD5 digests at once: the 32-bit lanes of a vector.
pub(super) const LANES: usize = 8;

#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn load(src: &[u8; V]) -> __m256i {
    // SAFETY: the reference is valid for reads of 32 bytes; `loadu` needs no alignment.
    unsafe { _mm256_loadu_si256(src.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn store(dst: &mut [u8; V], vector: __m256i) {
    // SAFETY: the exclusive reference is valid for writes of 32 bytes; `storeu` needs no alignment.
    unsafe { _mm256_storeu_si256(dst.as_mut_ptr().cast(), vector) }
}

/// The same 16 bytes in both halves, because AVX2 shuffles the bytes of each half separately.
#[inline]
#[target_feature(enable = "avx2")]
fn both(index: [i8; 16]) -> __m256i {
    let index = i128::from_le_bytes(index.map(|byte| byte as u8));
    _mm256_broadcastsi128_si256(_mm_set_epi64x((index >> 64) as i64, index as i64))
}

/// Splits all whole blocks. Returns the number of elements done.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
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

#[target_feature(enable = "avx2")]
fn split2<const ROTATE: bool>(src: &[u8], low: &mut [u8], high: &mut [u8]) -> usize {
    let (blocks, _) = src.as_chunks::<{ 2 * V }>();
    let mask = _mm256_set1_epi16(0xFF);
    let rotl = |x| if ROTATE { _mm256_or_si256(_mm256_slli_epi16(x, 1), _mm256_srli_epi16(x, 15)) } else { x };
    let targets = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
    for (block, (low, high)) in blocks.iter().zip(targets) {
        let (rows, _) = block.as_chunks();
        let (x, y) = (rotl(load(&rows[0])), rotl(load(&rows[1])));
        // Packing works on each half, so the quarters come out in the order 0 2 1 3.
        let lows = _mm256_packus_epi16(_mm256_and_si256(x, mask), _mm256_and_si256(y, mask));
        let highs = _mm256_packus_epi16(_mm256_srli_epi16(x, 8), _mm256_srli_epi16(y, 8));
        store(low, _mm256_permute4x64_epi64(lows, 0b11_01_10_00));
        store(high, _mm256_permute4x64_epi64(highs, 0b11_01_10_00));
    }
    blocks.len() * V
}

#[target_feature(enable = "avx2")]
fn merge2<const ROTATE: bool>(low: &[u8], high: &[u8], dst: &mut [u8]) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<{ 2 * V }>();
    let done = blocks.len() * V;
    let rotr = |x| if ROTATE { _mm256_or_si256(_mm256_srli_epi16(x, 1), _mm256_slli_epi16(x, 15)) } else { x };
    for (block, (low, high)) in blocks.iter_mut().zip(low.as_chunks().0.iter().zip(high.as_chunks().0)) {
        let low = _mm256_permute4x64_epi64(load(low), 0b11_01_10_00);
        let high = _mm256_permute4x64_epi64(load(high), 0b11_01_10_00);
        let (rows, _) = block.as_chunks_mut();
        store(&mut rows[0], rotr(_mm256_unpacklo_epi8(low, high)));
        store(&mut rows[1], rotr(_mm256_unpackhi_epi8(low, high)));
    }
    done
}

/// Transposes 4 × 4 bytes in each half.
const BYTES_4X4: [i8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

#[target_feature(enable = "avx2")]
fn split4<const ROTATE: bool>(src: &[u8], planes: [&mut [u8]; 4]) -> usize {
    let (blocks, _) = src.as_chunks::<{ 4 * V }>();
    let (bytes, words) = (both(BYTES_4X4), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let [a, b, c, d] = planes.map(|plane| plane.as_chunks_mut().0.iter_mut());
    for ((((block, a), b), c), d) in blocks.iter().zip(a).zip(b).zip(c).zip(d) {
        let (rows, _) = block.as_chunks();
        // Quarter p of each row becomes its share of plane p.
        let row = |k: usize| {
            let x = load(&rows[k]);
            let x = if ROTATE { _mm256_or_si256(_mm256_slli_epi32(x, 1), _mm256_srli_epi32(x, 31)) } else { x };
            _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, bytes), words)
        };
        let planes = transpose4([row(0), row(1), row(2), row(3)]);
        for (target, plane) in [a, b, c, d].into_iter().zip(planes) {
            store(target, plane);
        }
    }
    blocks.len() * V
}

#[target_feature(enable = "avx2")]
fn merge4<const ROTATE: bool>(planes: [&[u8]; 4], dst: &mut [u8]) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<{ 4 * V }>();
    let done = blocks.len() * V;
    let (bytes, words) = (both(BYTES_4X4), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    let [a, b, c, d] = planes.map(|plane| plane.as_chunks().0.iter());
    for ((((block, a), b), c), d) in blocks.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        let rows = transpose4([load(a), load(b), load(c), load(d)]);
        for (target, row) in block.as_chunks_mut().0.iter_mut().zip(rows) {
            let x = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(row, words), bytes);
            let x = if ROTATE { _mm256_or_si256(_mm256_srli_epi32(x, 1), _mm256_slli_epi32(x, 31)) } else { x };
            store(target, x);
        }
    }
    done
}

#[target_feature(enable = "avx2")]
fn split8<const ROTATE: bool>(src: &[u8], planes: [&mut [u8]; 8]) -> usize {
    let (blocks, _) = src.as_chunks::<{ 8 * V }>();
    let pairs = both([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]);
    let fours = both([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]);
    let mut planes = planes.map(|plane| plane.as_chunks_mut().0.iter_mut());
    for block in blocks {
        let (rows, _) = block.as_chunks();
        // Eighth p of each row becomes its share of plane p: bytes to pairs, then pairs of both halves to fours.
        let row = |k: usize| {
            let x = load(&rows[k]);
            let x = if ROTATE { _mm256_or_si256(_mm256_slli_epi64(x, 1), _mm256_srli_epi64(x, 63)) } else { x };
            _mm256_shuffle_epi8(_mm256_permute4x64_epi64(_mm256_shuffle_epi8(x, pairs), 0b11_01_10_00), fours)
        };
        let shares = transpose8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
        for (target, share) in planes.iter_mut().filter_map(Iterator::next).zip(shares) {
            store(target, share);
        }
    }
    blocks.len() * V
}

#[target_feature(enable = "avx2")]
fn merge8<const ROTATE: bool>(planes: [&[u8]; 8], dst: &mut [u8]) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<{ 8 * V }>();
    let done = blocks.len() * V;
    let pairs = both([0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]);
    let fours = both([0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]);
    let planes = planes.map(|plane| plane.as_chunks().0);
    for (index, block) in blocks.iter_mut().enumerate() {
        let row = |p: usize| load(&planes[p][index]);
        let rows = transpose8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
        for (target, row) in block.as_chunks_mut().0.iter_mut().zip(rows) {
            let x = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(row, fours), 0b11_01_10_00);
            let x = _mm256_shuffle_epi8(x, pairs);
            let x = if ROTATE { _mm256_or_si256(_mm256_srli_epi64(x, 1), _mm256_slli_epi64(x, 63)) } else { x };
            store(target, x);
        }
    }
    done
}

/// Transposes 4 × 4 words of 64 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose4([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab, cd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpacklo_epi64(c, d));
    let (ab_odd, cd_odd) = (_mm256_unpackhi_epi64(a, b), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256(ab, cd, 0x20),
        _mm256_permute2x128_si256(ab_odd, cd_odd, 0x20),
        _mm256_permute2x128_si256(ab, cd, 0x31),
        _mm256_permute2x128_si256(ab_odd, cd_odd, 0x31),
    ]
}

/// Transposes 8 × 8 words of 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose8(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    // Columns 0 and 4 of two rows each in the first, 1 and 5 in the second, and so on.
    let columns = |a, b, c, d| {
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    };
    let ([p, q, r, s], [t, u, v, w]) = (columns(a, b, c, d), columns(e, f, g, h));
    [
        _mm256_permute2x128_si256(p, t, 0x20),
        _mm256_permute2x128_si256(q, u, 0x20),
        _mm256_permute2x128_si256(r, v, 0x20),
        _mm256_permute2x128_si256(s, w, 0x20),
        _mm256_permute2x128_si256(p, t, 0x31),
        _mm256_permute2x128_si256(q, u, 0x31),
        _mm256_permute2x128_si256(r, v, 0x31),
        _mm256_permute2x128_si256(s, w, 0x31),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(words: [u32; LANES]) -> __m256i {
    let mut bytes = [0; V];
    for (target, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *target = word.to_le_bytes();
    }
    load(&bytes)
}

#[inline]
#[target_feature(enable = "avx2")]
fn unlanes(vector: __m256i) -> [u32; LANES] {
    let mut bytes = [0; V];
    store(&mut bytes, vector);
    std::array::from_fn(|lane| u32::from_le_bytes(bytes.as_chunks().0[lane]))
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(word: u32) -> __m256i {
    _mm256_set1_epi32(word as i32)
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(x: __m256i, y: __m256i) -> __m256i {
    _mm256_add_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotate_left<const BY: i32, const REST: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32(x, BY), _mm256_srli_epi32(x, REST))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix1(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    add(sum, _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d))))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix2(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    mix1(sum, d, b, c)
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix3(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    add(sum, _mm256_xor_si256(b, _mm256_xor_si256(c, d)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix4(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    add(sum, _mm256_xor_si256(c, _mm256_or_si256(b, _mm256_xor_si256(d, splat(u32::MAX)))))
}

/// Vector n has word n of the block of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn message(inputs: &Inputs<'_, LANES>, step: usize) -> [__m256i; 16] {
    let half = |k: usize| {
        let row = |lane: usize| load(&inputs[lane][step].as_chunks().0[k]);
        transpose8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)])
    };
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (half(0), half(1));
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

md5_compress!("avx2");
