//! Kernels with NEON, which every aarch64 target of the standard library has.
//!
//! Interleaving loads and stores do most of the work. Elements are rotated after they are split into planes: the bit
//! that leaves a byte enters the same byte of the next plane.

use std::arch::aarch64::*;

/// Elements of a block: the bytes of a vector.
const V: usize = 16;

/// Splits all whole blocks. Returns the number of elements done.
#[target_feature(enable = "neon")]
pub(super) fn split(src: &[u8], rotate: bool, planes: &mut [&mut [u8]]) -> usize {
    match planes {
        [a, b] => split_blocks(src, rotate, [a, b], |block| load2(block)),
        [a, b, c, d] => split_blocks(src, rotate, [a, b, c, d], |block| load4(block)),
        [a, b, c, d, e, f, g, h] => split_blocks(src, rotate, [a, b, c, d, e, f, g, h], |block| load8(block)),
        _ => 0,
    }
}

/// Merges all whole blocks. Returns the number of elements done.
#[target_feature(enable = "neon")]
pub(super) fn merge(planes: &[&[u8]], rotate: bool, dst: &mut [u8]) -> usize {
    match *planes {
        [a, b] => merge_blocks([a, b], rotate, dst, |block, x| store2(block, x)),
        [a, b, c, d] => merge_blocks([a, b, c, d], rotate, dst, |block, x| store4(block, x)),
        [a, b, c, d, e, f, g, h] => merge_blocks([a, b, c, d, e, f, g, h], rotate, dst, |block, x| store8(block, x)),
        _ => 0,
    }
}

#[inline]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
fn split_blocks<const W: usize, const BLOCK: usize>(
    src: &[u8],
    rotate: bool,
    planes: [&mut [u8]; W],
    load: impl Fn(&[u8; BLOCK]) -> [uint8x16_t; W],
) -> usize {
    let (blocks, _) = src.as_chunks::<BLOCK>();
    let planes = planes.map(|plane| plane.as_chunks_mut::<V>().0);
    for (index, block) in blocks.iter().enumerate() {
        let x = load(block);
        for p in 0..W {
            let plane = if rotate { vsriq_n_u8::<7>(vshlq_n_u8::<1>(x[p]), x[(p + W - 1) % W]) } else { x[p] };
            // SAFETY: the exclusive reference is valid for writes of 16 bytes; no alignment is needed.
            unsafe { vst1q_u8(planes[p][index].as_mut_ptr(), plane) };
        }
    }
    blocks.len() * V
}

#[inline]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
fn merge_blocks<const W: usize, const BLOCK: usize>(
    planes: [&[u8]; W],
    rotate: bool,
    dst: &mut [u8],
    store: impl Fn(&mut [u8; BLOCK], [uint8x16_t; W]),
) -> usize {
    let (blocks, _) = dst.as_chunks_mut::<BLOCK>();
    let planes = planes.map(|plane| plane.as_chunks::<V>().0);
    let done = blocks.len() * V;
    for (index, block) in blocks.iter_mut().enumerate() {
        // SAFETY: the reference is valid for reads of 16 bytes; no alignment is needed.
        let x = planes.map(|plane| unsafe { vld1q_u8(plane[index].as_ptr()) });
        let rotated = |p: usize| vsliq_n_u8::<7>(vshrq_n_u8::<1>(x[p]), x[(p + 1) % W]);
        store(block, if rotate { std::array::from_fn(rotated) } else { x });
    }
    done
}

#[inline]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
fn load2(block: &[u8; 2 * V]) -> [uint8x16_t; 2] {
    // SAFETY: reads the 32 bytes of the block.
    let uint8x16x2_t(a, b) = unsafe { vld2q_u8(block.as_ptr()) };
    [a, b]
}

#[inline]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
fn store2(block: &mut [u8; 2 * V], [a, b]: [uint8x16_t; 2]) {
    // SAFETY: writes the 32 bytes of the block.
    unsafe { vst2q_u8(block.as_mut_ptr(), uint8x16x2_t(a, b)) }
}

#[inline]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
fn load4(block: &[u8; 4 * V]) -> [uint8x16_t; 4] {
    // SAFETY: reads the 64 bytes of the block.
    let uint8x16x4_t(a, b, c, d) = unsafe { vld4q_u8(block.as_ptr()) };
    [a, b, c, d]
}

#[inline]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
fn store4(block: &mut [u8; 4 * V], [a, b, c, d]: [uint8x16_t; 4]) {
    // SAFETY: writes the 64 bytes of the block.
    unsafe { vst4q_u8(block.as_mut_ptr(), uint8x16x4_t(a, b, c, d)) }
}

/// Every fourth byte gives bytes p and p + 4 of the elements in turn; they are then separated.
#[inline]
#[target_feature(enable = "neon")]
fn load8(block: &[u8; 8 * V]) -> [uint8x16_t; 8] {
    let (halves, _) = block.as_chunks();
    let (x, y) = (load4(&halves[0]), load4(&halves[1]));
    std::array::from_fn(|p| if p < 4 { vuzp1q_u8(x[p], y[p]) } else { vuzp2q_u8(x[p - 4], y[p - 4]) })
}

#[inline]
#[target_feature(enable = "neon")]
fn store8(block: &mut [u8; 8 * V], planes: [uint8x16_t; 8]) {
    let (halves, _) = block.as_chunks_mut();
    store4(&mut halves[0], std::array::from_fn(|p| vzip1q_u8(planes[p], planes[p + 4])));
    store4(&mut halves[1], std::array::from_fn(|p| vzip2q_u8(planes[p], planes[p + 4])));
}
