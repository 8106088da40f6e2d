//! Steps: the difference of two chunks, word by word.
//!
//! A float is mapped to an integer that grows with it, so that a small change is a small integer, whatever the
//! exponent. The map is one to one over all bit patterns, so NaNs, zeros of both signs and words that are not floats
//! come back unchanged. The sign of a difference is moved to its lowest bit (zigzag): a word that hardly changed has
//! zeros in all upper planes, and a word that did not change is zero.

/// Whether words are compared as floats or as integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Form {
    Integers = 0,
    Floats = 1,
}

macro_rules! kernels {
    ($difference:ident, $sum:ident, $word:ty, $signed:ty) => {
        fn $difference(raw: &[u8], base: &[u8], form: Form, out: &mut [u8]) {
            const SIGN: u32 = <$word>::BITS - 1;
            let (flip, top): ($word, $word) = if form == Form::Floats { (!0, 1 << SIGN) } else { (0, 0) };
            let image = |bytes: &[u8; size_of::<$word>()]| {
                let word = <$word>::from_le_bytes(*bytes);
                word ^ ((((word as $signed) >> SIGN) as $word & flip) | top)
            };
            let pairs = raw.as_chunks().0.iter().zip(base.as_chunks().0);
            for (out, (raw, base)) in out.as_chunks_mut().0.iter_mut().zip(pairs) {
                let step = image(raw).wrapping_sub(image(base));
                *out = ((step << 1) ^ ((step as $signed) >> SIGN) as $word).to_le_bytes();
            }
        }

        fn $sum(base: &[u8], form: Form, steps: &mut [u8]) {
            const SIGN: u32 = <$word>::BITS - 1;
            let (flip, top): ($word, $word) = if form == Form::Floats { (!0, 1 << SIGN) } else { (0, 0) };
            let mask = |word: $word| (((word as $signed) >> SIGN) as $word & flip) | top;
            for (out, base) in steps.as_chunks_mut().0.iter_mut().zip(base.as_chunks().0) {
                let (step, base) = (<$word>::from_le_bytes(*out), <$word>::from_le_bytes(*base));
                let step = (step >> 1) ^ (step & 1).wrapping_neg();
                let image = (base ^ mask(base)).wrapping_add(step);
                *out = (image ^ mask(image ^ top)).to_le_bytes();
            }
        }
    };
}

kernels!(difference_1, sum_1, u8, i8);
kernels!(difference_2, sum_2, u16, i16);
kernels!(difference_4, sum_4, u32, i32);
kernels!(difference_8, sum_8, u64, i64);

/// Writes the steps from `base` to `raw` to `out`. All three have the same length, a whole number of words.
pub(super) fn difference(raw: &[u8], base: &[u8], width: usize, form: Form, out: &mut [u8]) {
    match width {
        1 => difference_1(raw, base, form, out),
        2 => difference_2(raw, base, form, out),
        4 => difference_4(raw, base, form, out),
        _ => difference_8(raw, base, form, out),
    }
}

/// Replaces steps from `base` by the words that they lead to.
pub(super) fn sum(base: &[u8], width: usize, form: Form, steps: &mut [u8]) {
    match width {
        1 => sum_1(base, form, steps),
        2 => sum_2(base, form, steps),
        4 => sum_4(base, form, steps),
        _ => sum_8(base, form, steps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step is the number of floats between two floats.
    #[test]
    fn steps_count_floats() {
        let step = |from: f32, to: f32| {
            let mut out = [0; 4];
            difference(&to.to_le_bytes(), &from.to_le_bytes(), 4, Form::Floats, &mut out);
            u32::from_le_bytes(out)
        };
        assert_eq!(step(1.0, 1.0), 0);
        assert_eq!(step(1.0, f32::from_bits(1.0f32.to_bits() + 1)), 2);
        assert_eq!(step(1.0, f32::from_bits(1.0f32.to_bits() - 1)), 1);
        assert_eq!(step(-1.0, f32::from_bits((-1.0f32).to_bits() + 1)), 1);
        assert_eq!(step(-0.0, 0.0), 2);
        assert_eq!(step(f32::from_bits(1), f32::from_bits(0x8000_0001)), 5);
    }
}
