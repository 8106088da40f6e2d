//! The rounds of MD5, for words and for vectors of words. The module that uses the macros defines how to add and mix.

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// The additive constants: |sin(n + 1)| · 2^32.
#[rustfmt::skip]
pub(super) const SINES: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
];

/// The states of all lanes: array n has word n of each.
pub(super) type State<const LANES: usize> = [[u32; LANES]; 4];

/// The next blocks of each lane. All lanes have the same number of blocks.
pub(super) type Inputs<'a, const LANES: usize> = [&'a [[u8; BLOCK]]; LANES];

/// The compression function over a vector type. The module must have `LANES`, `lanes`, `unlanes`, `splat`, `add`,
/// `rotate_left`, `message`, and `mix1` to `mix4`, which add MD5's function of three words to a sum.
#[cfg(target_arch = "x86_64")]
macro_rules! md5_compress {
    ($feature:literal) => {
        #[target_feature(enable = $feature)]
        pub(super) fn md5_compress(state: &mut State<LANES>, inputs: &Inputs<'_, LANES>) {
            let steps = inputs[0].len();
            assert!(inputs.iter().all(|input| input.len() == steps), "lanes advance together");
            let [mut a, mut b, mut c, mut d] = [lanes(state[0]), lanes(state[1]), lanes(state[2]), lanes(state[3])];
            for step in 0..steps {
                let words = message(inputs, step);
                let before = (a, b, c, d);
                md5_round!((a, b, c, d), words, mix1, 0, |n| n, (7, 25), (12, 20), (17, 15), (22, 10));
                md5_round!((a, b, c, d), words, mix2, 16, |n| 5 * n + 1, (5, 27), (9, 23), (14, 18), (20, 12));
                md5_round!((a, b, c, d), words, mix3, 32, |n| 3 * n + 5, (4, 28), (11, 21), (16, 16), (23, 9));
                md5_round!((a, b, c, d), words, mix4, 48, |n| 7 * n, (6, 26), (10, 22), (15, 17), (21, 11));
                (a, b, c, d) = (add(a, before.0), add(b, before.1), add(c, before.2), add(d, before.3));
            }
            *state = [unlanes(a), unlanes(b), unlanes(c), unlanes(d)];
        }
    };
}

/// 16 steps. Each pair is a rotation, and 32 minus that rotation.
macro_rules! md5_round {
    (
        ($a:ident, $b:ident, $c:ident, $d:ident), $words:ident, $mix:ident, $first:literal, |$n:ident| $index:expr,
        $s:tt, $t:tt, $u:tt, $v:tt
    ) => {
        for fours in 0..4 {
            let next = 4 * fours;
            md5_round!(@step $a, $b, $c, $d, $words, $mix, $first, next, |$n| $index, $s);
            md5_round!(@step $d, $a, $b, $c, $words, $mix, $first, next + 1, |$n| $index, $t);
            md5_round!(@step $c, $d, $a, $b, $words, $mix, $first, next + 2, |$n| $index, $u);
            md5_round!(@step $b, $c, $d, $a, $words, $mix, $first, next + 3, |$n| $index, $v);
        }
    };
    (
        @step $a:ident, $b:ident, $c:ident, $d:ident, $words:ident, $mix:ident, $first:literal, $next:expr,
        |$n:ident| $index:expr, ($by:literal, $rest:literal)
    ) => {
        let $n: usize = $next;
        // Grouped so that only the last addition depends on the step before.
        let sum = add($a, add($words[($index) % 16], splat(SINES[$first + $n])));
        $a = add($b, rotate_left::<$by, $rest>($mix(sum, $b, $c, $d)));
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use md5_compress;
pub(super) use md5_round;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_sines() {
        for (n, &word) in SINES.iter().enumerate() {
            assert_eq!(word, ((n as f64 + 1.0).sin().abs() * 4_294_967_296.0) as u32);
        }
    }
}
