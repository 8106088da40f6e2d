//! Byte planes: the entry to the kernels, and their portable form.
//!
//! The kernel of a level does whole blocks of elements and returns how many elements it has done. The portable form
//! does the rest.

use super::level::{Level, level};
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::error::Result;

/// Splits elements into byte planes: byte p of every element goes to `planes[p]`. With `rotate`, each element is
/// rotated left by one bit first.
///
/// The number of planes, 1, 2, 4 or 8, is the width of an element in bytes.
///
/// # Errors
/// Those of [`level`].
///
/// # Panics
/// As [`split_at`].
pub(crate) fn split(src: &[u8], rotate: bool, planes: &mut [&mut [u8]]) -> Result<()> {
    split_at(level()?, src, rotate, planes);
    Ok(())
}

/// Merges byte planes into elements: the inverse of [`split`].
///
/// # Errors
/// Those of [`level`].
///
/// # Panics
/// As [`split_at`].
pub(crate) fn merge(planes: &[&[u8]], rotate: bool, dst: &mut [u8]) -> Result<()> {
    merge_at(level()?, planes, rotate, dst);
    Ok(())
}

/// Splits elements into byte planes, with the kernels of one level: byte p of every element goes to `planes[p]`. With
/// `rotate`, each element is rotated left by one bit first.
///
/// # Panics
/// If there are not 1, 2, 4 or 8 planes, if their lengths do not fit `src`, or if the processor lacks the level.
#[allow(unsafe_code)]
pub fn split_at(level: Level, src: &[u8], rotate: bool, planes: &mut [&mut [u8]]) {
    assert!(planes.iter().all(|plane| plane.len() * planes.len() == src.len()), "planes fit the elements");
    assert!(level.is_available(), "{} on a processor without it", level.name());
    let done = match level {
        // SAFETY: each arm calls functions that need only the instructions of its level. The assertion above has
        // checked that they are available.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::split(src, rotate, planes) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { avx512::split(src, rotate, planes) },
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        // SAFETY: as above.
        Level::Neon => unsafe { neon::split(src, rotate, planes) },
        _ => 0,
    };
    split_portable(&src[done * planes.len()..], rotate, planes, done);
}

/// Merges byte planes into elements, with the kernels of one level: the inverse of [`split_at`].
///
/// # Panics
/// As [`split_at`].
#[allow(unsafe_code)]
pub fn merge_at(level: Level, planes: &[&[u8]], rotate: bool, dst: &mut [u8]) {
    assert!(planes.iter().all(|plane| plane.len() * planes.len() == dst.len()), "planes fit the elements");
    assert!(level.is_available(), "{} on a processor without it", level.name());
    let done = match level {
        // SAFETY: as in `split_at`: each arm needs only the instructions of its level, which is available.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::merge(planes, rotate, dst) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { avx512::merge(planes, rotate, dst) },
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        // SAFETY: as above.
        Level::Neon => unsafe { neon::merge(planes, rotate, dst) },
        _ => 0,
    };
    merge_portable(planes, rotate, &mut dst[done * planes.len()..], done);
}

fn split_portable(src: &[u8], rotate: bool, planes: &mut [&mut [u8]], done: usize) {
    match planes {
        [a] => split_words(src, rotate, [&mut a[done..]]),
        [a, b] => split_words(src, rotate, [&mut a[done..], &mut b[done..]]),
        [a, b, c, d] => split_words(src, rotate, [a, b, c, d].map(|plane| &mut plane[done..])),
        [a, b, c, d, e, f, g, h] => {
            split_words(src, rotate, [a, b, c, d, e, f, g, h].map(|plane| &mut plane[done..]));
        }
        _ => panic!("an element has 1, 2, 4 or 8 bytes, not {}", planes.len()),
    }
}

fn merge_portable(planes: &[&[u8]], rotate: bool, dst: &mut [u8], done: usize) {
    match *planes {
        [a] => merge_words([&a[done..]], rotate, dst),
        [a, b] => merge_words([&a[done..], &b[done..]], rotate, dst),
        [a, b, c, d] => merge_words([a, b, c, d].map(|plane| &plane[done..]), rotate, dst),
        [a, b, c, d, e, f, g, h] => {
            merge_words([a, b, c, d, e, f, g, h].map(|plane| &plane[done..]), rotate, dst);
        }
        _ => panic!("an element has 1, 2, 4 or 8 bytes, not {}", planes.len()),
    }
}

/// A little-endian word that is rotated left: each byte gets the top bit of the byte before it, and the first byte that
/// of the last.
fn split_words<const W: usize>(src: &[u8], rotate: bool, mut planes: [&mut [u8]; W]) {
    // All planes have the same length. This shows it to the compiler, which then checks no bounds.
    let count = planes[0].len();
    planes = planes.map(|plane| &mut plane[..count]);
    for (index, word) in src.as_chunks::<W>().0[..count].iter().enumerate() {
        for p in 0..W {
            planes[p][index] = if rotate { word[p] << 1 | word[(p + W - 1) % W] >> 7 } else { word[p] };
        }
    }
}

fn merge_words<const W: usize>(planes: [&[u8]; W], rotate: bool, dst: &mut [u8]) {
    let count = planes[0].len();
    let planes = planes.map(|plane| &plane[..count]);
    for (index, word) in dst.as_chunks_mut::<W>().0[..count].iter_mut().enumerate() {
        for p in 0..W {
            let byte = planes[p][index];
            word[p] = if rotate { byte >> 1 | planes[(p + 1) % W][index] << 7 } else { byte };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::available;

    fn split_to_vecs(level: Level, src: &[u8], width: usize, rotate: bool) -> Vec<Vec<u8>> {
        let mut planes = vec![vec![0xEE; src.len() / width]; width];
        split_at(level, src, rotate, &mut planes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        planes
    }

    fn check(src: &[u8], width: usize, rotate: bool) {
        let expected = split_to_vecs(Level::Portable, src, width, rotate);
        for level in available() {
            let planes = split_to_vecs(level, src, width, rotate);
            assert!(planes == expected, "split {level:?} of {} bytes, width {width}, {rotate}", src.len());
            let mut back = vec![0xEE; src.len() + 1];
            merge_at(level, &planes.iter().map(Vec::as_slice).collect::<Vec<_>>(), rotate, &mut back[1..]);
            assert!(back[1..] == *src, "merge {level:?} of {} bytes, width {width}, {rotate}", src.len());
        }
    }

    #[test]
    fn portable_is_what_the_format_says() {
        let words = [0x8000_0001_u32, 0x7F80_0000, 0x0102_0304];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for rotate in [false, true] {
            let planes = split_to_vecs(Level::Portable, &bytes, 4, rotate);
            for (index, word) in words.iter().enumerate() {
                let expected = word.rotate_left(u32::from(rotate)).to_le_bytes();
                assert_eq!([0, 1, 2, 3].map(|p| planes[p][index]), expected);
            }
        }
    }

    #[test]
    fn every_length_around_the_blocks() {
        let bytes: Vec<u8> = (0..6000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for width in [1, 2, 4, 8] {
            for count in 0..300 {
                for rotate in [false, true] {
                    check(&bytes[3..][..count * width], width, rotate);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_level_equals_portable(
            bytes in prop::collection::vec(any::<u8>(), 0..8192),
            skip in 0usize..64,
            log in 0u32..4,
            rotate: bool,
        ) {
            let width = 1 << log;
            let bytes = bytes.get(skip..).unwrap_or_default();
            check(&bytes[..bytes.len() / width * width], width, rotate);
        }
    }
}
