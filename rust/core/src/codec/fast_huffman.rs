//! A decoder for the zstd frames of byte planes that is faster than zstd.
//!
//! A plane of exponents has few values, of 2 to 3 bits each. One lookup in zstd's table decodes one or two symbols. A
//! lookup in the table here decodes all symbols that fit into its 11 bits, up to six; in such a plane, three to four.
//!
//! The format is that of RFC 8878, as Huffman-only compression writes it: a content size, blocks without sequences, and
//! literals in four streams. This decoder refuses other frames, damaged frames, and frames where a lookup would decode
//! few symbols; zstd then decodes them. Whatever is accepted here, zstd decodes to the same bytes.

use std::array;

/// First bytes of a frame.
pub(super) const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Bits of a lookup: the longest code of a literal.
const LOOK: u32 = 11;
/// The most symbols of one lookup.
const MOST: usize = 6;
/// Lookups between two loads of a stream's bits: a load provides 57 bits.
const LOOKS: usize = 5;
/// Bytes that a round may write.
const ROOM: usize = 40;
const STREAMS: usize = 4;
const MAX_BLOCK: usize = 128 << 10;
/// For a shorter frame, building the table takes longer than it saves. In bytes after decoding.
const WORTHWHILE_LEN: usize = 64 << 10;
/// The largest size of a frame, in percent of its decoded bytes: 3.2 bits per symbol. Above that, a lookup decodes
/// hardly two symbols.
const WORTHWHILE_SHARE: usize = 40;

/// Whether this decoder is faster than zstd for a frame that decodes to `len` bytes.
pub(super) fn is_worthwhile(frame: &[u8], len: usize) -> bool {
    len >= WORTHWHILE_LEN && frame.len() <= len / 100 * WORTHWHILE_SHARE
}

/// A table entry. Bits 0–7: the bits that all its symbols take; bits 8–55: up to six symbols; bits 56–63: their number.
type Entry = u64;

const SYMBOLS: Entry = u64::MAX >> 8 & !0xFF;

/// Puts a symbol before those of `entry`, which has at most `MOST - 1`.
fn prepend(entry: Entry, symbol: u8, bits: u32) -> Entry {
    let rest = (entry & SYMBOLS) << 8 & SYMBOLS;
    let counts = (entry & !SYMBOLS) + (1 << 56) + u64::from(bits);
    counts | rest | u64::from(symbol) << 8
}

/// The symbols of an entry, as bytes.
fn symbols(entry: Entry) -> [u8; 8] {
    (entry >> 8).to_le_bytes()
}

/// The Huffman code of a block, and its lookup tables.
pub(super) struct Huffman {
    /// Bits of each symbol's code, 0 for none; all 0 before the first block.
    bits: [u8; 256],
    table: [Entry; 1 << LOOK],
    /// The tables for lookups of fewer bits: that for `k` bits begins at index `1 << k`. An entry into which no symbol
    /// fits is 0.
    shorter: [Entry; 1 << LOOK],
}

impl Huffman {
    pub(super) fn new() -> Self {
        Self { bits: [0; 256], table: [0; 1 << LOOK], shorter: [0; 1 << LOOK] }
    }

    /// Decodes a frame into `dst`, which it must fill exactly. `None` leaves the frame to zstd; `dst` then holds any
    /// bytes.
    pub(super) fn decode(&mut self, frame: &[u8], dst: &mut [u8]) -> Option<()> {
        self.bits = [0; 256];
        let mut src = behind_header(frame, dst.len())?;
        let mut rest = dst;
        loop {
            let (head, behind) = src.split_first_chunk::<3>()?;
            let head = u32::from_le_bytes([head[0], head[1], head[2], 0]);
            let (is_last, kind, size) = (head & 1 == 1, head >> 1 & 3, (head >> 3) as usize);
            if size > MAX_BLOCK {
                return None;
            }
            let (block, behind) = behind.split_at_checked(if kind == 1 { 1 } else { size })?;
            let len = if kind == 2 { self.block(block, rest)? } else { size };
            let dst;
            (dst, rest) = rest.split_at_mut_checked(len)?;
            match kind {
                0 => dst.copy_from_slice(block),
                1 => dst.fill(block[0]),
                2 => {}
                _ => return None,
            }
            src = behind;
            if is_last {
                return (src.is_empty() && rest.is_empty()).then_some(());
            }
        }
    }

    /// Decodes the literals of a compressed block to the front of `dst`. Returns their number.
    fn block(&mut self, block: &[u8], dst: &mut [u8]) -> Option<usize> {
        let (kind, form) = (*block.first()? & 3, usize::from(*block.first()? >> 2 & 3));
        if kind < 2 || form == 0 {
            return None;
        }
        let (header, behind) = block.split_at_checked(2 + form)?;
        let mut field = [0; 8];
        field[..header.len()].copy_from_slice(header);
        let (field, width) = (u64::from_le_bytes(field), 6 + 4 * form);
        let size = |shift: usize| (field >> shift) as usize & ((1 << width) - 1);
        let (coded, sequences) = behind.split_at_checked(size(4 + width))?;
        let dst = dst.get_mut(..size(4))?;
        if sequences != [0] || dst.len() > MAX_BLOCK {
            return None;
        }
        let streams = match kind {
            2 => &coded[self.read_code(coded)?..],
            _ if self.bits == [0; 256] => return None,
            _ => coded,
        };
        self.streams(streams, dst)?;
        Some(dst.len())
    }

    /// Reads the description of a code. Returns the bytes that it takes.
    fn read_code(&mut self, src: &[u8]) -> Option<usize> {
        let mut weights = [0; 256];
        let (&head, behind) = src.split_first()?;
        let (count, len) = match usize::from(head) {
            len @ ..128 => (read_weights(behind.get(..len)?, &mut weights)?, len),
            count => {
                let (count, len) = (count - 127, (count - 126) / 2);
                for (pair, byte) in weights.chunks_exact_mut(2).zip(behind.get(..len)?) {
                    pair.copy_from_slice(&[byte >> 4, byte & 15]);
                }
                weights[count] = 0; // an odd count leaves half a byte
                (count, len)
            }
        };
        self.set_code(&mut weights, count)?;
        Some(1 + len)
    }

    /// Builds the tables. The weight of the last symbol follows from the others.
    fn set_code(&mut self, weights: &mut [u8; 256], count: usize) -> Option<()> {
        if weights.iter().any(|&weight| u32::from(weight) > LOOK) {
            return None;
        }
        let total: u32 = weights.iter().map(|&weight| (1 << weight) >> 1).sum();
        let longest = total.checked_ilog2()? + 1;
        let left = (1 << longest) - total;
        if longest > LOOK || !left.is_power_of_two() {
            return None;
        }
        *weights.get_mut(count)? = left.ilog2() as u8 + 1;
        // Codes are sorted by weight, then by symbol, so the longest codes come first.
        let mut places = [0; LOOK as usize + 2];
        for &weight in &weights[..=count] {
            places[usize::from(weight) + 1] += usize::from(weight > 0);
        }
        if places[2] < 2 || places[2] % 2 == 1 {
            return None; // the longest codes come in pairs
        }
        for weight in 1..places.len() {
            places[weight] += places[weight - 1];
        }
        let symbols = places[places.len() - 1];
        let mut code = [(0, 0); 256];
        for (symbol, &weight) in weights[..=count].iter().enumerate().filter(|(_, weight)| **weight > 0) {
            let place = &mut places[usize::from(weight)];
            code[*place] = (symbol as u8, longest + 1 - u32::from(weight));
            *place += 1;
        }
        let code = &code[..symbols];
        self.bits = [0; 256];
        for &(symbol, bits) in code {
            self.bits[usize::from(symbol)] = bits as u8;
        }
        // With a code of one bit, more symbols could fit into a lookup than into an entry. Then the bits after the
        // first symbol are looked up in a smaller table.
        let shortest = code[symbols - 1].1;
        let most = if shortest == 1 { MOST as u32 - 1 } else { LOOK - shortest };
        for look in 0..=most {
            let (shorter, entries) = self.shorter.split_at_mut(1 << look);
            fill(&mut entries[..1 << look], look, code, shorter, most);
        }
        fill(&mut self.table, LOOK, code, &self.shorter, most);
        Some(())
    }

    /// Decodes four streams, each a quarter of `dst`.
    fn streams(&self, src: &[u8], dst: &mut [u8]) -> Option<()> {
        let (sizes, mut src) = src.split_first_chunk::<6>()?;
        let quarter = dst.len().div_ceil(STREAMS);
        if 3 * quarter >= dst.len() {
            return None;
        }
        let mut streams: [Stream<'_>; STREAMS] = Default::default();
        for ((k, stream), dst) in streams.iter_mut().enumerate().zip(dst.chunks_mut(quarter)) {
            let size =
                if k < 3 { usize::from(u16::from_le_bytes([sizes[2 * k], sizes[2 * k + 1]])) } else { src.len() };
            let bytes;
            (bytes, src) = src.split_at_checked(size)?;
            *stream = Stream { dst, ..Stream::new(bytes)? };
        }
        run(&self.table, &mut streams);
        for stream in &mut streams {
            run(&self.table, array::from_mut(stream));
            self.finish(stream)?;
        }
        Some(())
    }

    /// Decodes the rest, one symbol at a time. `None` if bits are left over or missing.
    fn finish(&self, stream: &mut Stream<'_>) -> Option<()> {
        while stream.at < stream.dst.len() {
            let symbol = symbols(self.table[(stream.load_last() >> (64 - LOOK)) as usize])[0];
            stream.dst[stream.at] = symbol;
            stream.at += 1;
            stream.left = stream.left.checked_sub(usize::from(self.bits[usize::from(symbol)]))?;
        }
        (stream.left == 0).then_some(())
    }
}

/// Decodes while every stream has enough bits, and room for all symbols that they may decode to.
///
/// The speed is limited by the latency from one lookup of a stream to the next: a shift, a load, a shift.
#[inline(always)]
fn run<const N: usize>(table: &[Entry; 1 << LOOK], streams: &mut [Stream<'_>; N]) {
    loop {
        let rounds = streams.iter().map(Stream::rounds).min().unwrap_or_default();
        if rounds == 0 {
            return;
        }
        let mut end = streams.each_ref().map(|s| s.left.div_ceil(8));
        let mut moved: [usize; N] = array::from_fn(|k| 8 * end[k] - streams[k].left);
        for _ in 0..rounds {
            // No lookup sees the lowest bit. It marks how far the bits have moved.
            let mut bits: [u64; N] = array::from_fn(|k| (load(streams[k].src, end[k]) | 1) << moved[k]);
            let mut at = [0; N];
            let rooms = streams.each_mut().map(|s| &mut s.dst[s.at..s.at + ROOM]);
            for _ in 0..LOOKS {
                for k in 0..N {
                    let entry = table[(bits[k] >> (64 - LOOK)) as usize];
                    bits[k] = bits[k].wrapping_shl(entry as u32);
                    // Bytes after the symbols are overwritten by the next ones. The mask shows the compiler that `at`
                    // is at most 31.
                    rooms[k][at[k]..at[k] + 8].copy_from_slice(&symbols(entry));
                    at[k] = (at[k] + (entry >> 56) as usize) & 31;
                }
            }
            for (k, stream) in streams.iter_mut().enumerate() {
                let used = bits[k].trailing_zeros() as usize;
                (end[k], moved[k]) = (end[k] - used / 8, used % 8);
                stream.at += at[k];
            }
        }
        for (k, stream) in streams.iter_mut().enumerate() {
            stream.left = 8 * end[k] - moved[k];
        }
    }
}

/// Fills the table for lookups of `look` bits: each entry is a symbol, then the symbols that the remaining bits decode
/// to.
fn fill(table: &mut [Entry], look: u32, code: &[(u8, u32)], shorter: &[Entry], most: u32) {
    let mut free = table;
    let unknown: usize = code.iter().filter(|(_, bits)| *bits > look).map(|(_, bits)| 1 << (LOOK - bits)).sum();
    let entries;
    (entries, free) = free.split_at_mut(unknown >> (LOOK - look));
    entries.fill(0);
    for &(symbol, bits) in code.iter().filter(|(_, bits)| *bits <= look) {
        let behind = look - bits;
        let seen = behind.min(most);
        let entries;
        (entries, free) = free.split_at_mut(1 << behind);
        let next = &shorter[1 << seen..2 << seen];
        if seen == behind {
            entries.iter_mut().zip(next).for_each(|(entry, &next)| *entry = prepend(next, symbol, bits));
            continue;
        }
        for (entries, &next) in entries.chunks_exact_mut(1 << (behind - seen)).zip(next) {
            entries.fill(prepend(next, symbol, bits));
        }
    }
}

/// A stream of bits, which is read from its end, and the place for its symbols.
#[derive(Default)]
struct Stream<'a> {
    src: &'a [u8],
    /// Bits that are not decoded yet.
    left: usize,
    dst: &'a mut [u8],
    /// Symbols that are decoded.
    at: usize,
}

impl<'a> Stream<'a> {
    /// The highest bit that is set in the last byte marks the end of the bits.
    fn new(src: &'a [u8]) -> Option<Self> {
        let last = src.last()?.checked_ilog2()? as usize;
        Some(Self { src, left: 8 * (src.len() - 1) + last, dst: &mut [], at: 0 })
    }

    /// Rounds of [`LOOKS`] lookups that need no check of bounds.
    fn rounds(&self) -> usize {
        let bits = self.left.saturating_sub(64) / (LOOKS * LOOK as usize);
        bits.min((self.dst.len() - self.at).saturating_sub(ROOM - LOOKS * MOST) / (LOOKS * MOST))
    }

    /// The last bits of the stream, the next one highest. Missing bits are zeros.
    fn load_last(&self) -> u64 {
        let end = self.left.div_ceil(8);
        let mut bytes = [0; 8];
        let len = end.min(8);
        bytes[8 - len..].copy_from_slice(&self.src[end - len..end]);
        u64::from_le_bytes(bytes) << (8 * end - self.left)
    }

    /// The next `count` bits, at most 8, as a number. `None` if fewer are left.
    fn take(&mut self, count: u32) -> Option<usize> {
        let found = (self.load_last() >> 1 >> (63 - count)) as usize;
        self.left = self.left.checked_sub(count as usize)?;
        Some(found)
    }
}

/// The eight bytes before `end`.
#[inline(always)]
fn load(src: &[u8], end: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&src[end - 8..end]);
    u64::from_le_bytes(bytes)
}

/// The bytes after the header of a frame, if it declares `len` bytes and has neither a checksum nor a dictionary.
fn behind_header(frame: &[u8], len: usize) -> Option<&[u8]> {
    let (&descriptor, src) = frame.strip_prefix(&MAGIC)?.split_first()?;
    let src = match descriptor & 0x3F {
        0x20 => src, // a single segment
        // A block is at most as long as the window: here 2¹⁷ to 2²⁷ bytes.
        0 if descriptor > 0 => src.split_first().filter(|(window, _)| (7 << 3..=17 << 3).contains(*window))?.1,
        _ => return None,
    };
    let width = 1 << (descriptor >> 6);
    let (field, src) = src.split_at_checked(width)?;
    let mut size = [0; 8];
    size[..width].copy_from_slice(field);
    let size = u64::from_le_bytes(size) + if width == 2 { 256 } else { 0 };
    (size == len as u64).then_some(src)
}

/// A state of the finite-state decoder of the weights.
#[derive(Clone, Copy, Default)]
struct State {
    weight: u8,
    bits: u32,
    next: usize,
}

/// log2 of the most states.
const MAX_STATE: u32 = 6;

/// Decodes the weights of symbols, from two states in turns (RFC 8878 §4.2.1.2). Returns their number.
fn read_weights(src: &[u8], weights: &mut [u8; 256]) -> Option<usize> {
    let mut states = [State::default(); 1 << MAX_STATE];
    let (log, len) = read_states(src, &mut states)?;
    let mut stream = Stream::new(&src[len..])?;
    let mut at = [stream.take(log)?, stream.take(log)?];
    for count in 0..254 {
        let state = states[at[count % 2]];
        weights[count] = state.weight;
        match stream.take(state.bits) {
            Some(more) => at[count % 2] = state.next + more,
            None => {
                weights[count + 1] = states[at[1 - count % 2]].weight;
                return Some(count + 2);
            }
        }
    }
    None
}

/// Reads the frequency of each weight (RFC 8878 §4.1.1) and spreads the weights over the states. Returns log2 of the
/// number of states, and the bytes read.
fn read_states(src: &[u8], states: &mut [State; 1 << MAX_STATE]) -> Option<(u32, usize)> {
    let mut at = 0;
    let peek = |at: usize| {
        let byte = |k: usize| u32::from(src.get(at / 8 + k).copied().unwrap_or(0));
        (byte(0) | byte(1) << 8 | byte(2) << 16) >> (at % 8)
    };
    let log = (peek(at) & 15) + 5;
    at += 4;
    if log > MAX_STATE {
        return None;
    }
    let mut counts = [0i32; LOOK as usize + 1];
    let (mut weight, mut left) = (0, (1i32 << log) + 1);
    while left > 1 {
        // Values up to `left` take `width` bits; the `short` lowest take one bit less.
        let width = left.ilog2() + 1;
        let short = (1i32 << width) - 1 - left;
        let (low, whole) = (peek(at) as i32 & ((1 << (width - 1)) - 1), peek(at) as i32 & ((1 << width) - 1));
        let is_short = low < short;
        at += width as usize - usize::from(is_short);
        let value = match is_short {
            true => low,
            false if whole >= 1 << (width - 1) => whole - short,
            false => whole,
        };
        // The stored value is the count plus one. A count of -1 means "less than one" and takes one state.
        let count = value - 1;
        *counts.get_mut(weight)? = count;
        left -= count.abs();
        weight += 1;
        let mut more = if count == 0 { 3 } else { 0 };
        while more == 3 {
            more = peek(at) as usize & 3;
            (at, weight) = (at + 2, weight + more);
        }
    }
    let len = at.div_ceil(8);
    if left != 1 || len > src.len() {
        return None;
    }
    spread(&counts, log, states)?;
    Some((log, len))
}

/// Assigns states to the weights (RFC 8878 §4.1.1).
fn spread(counts: &[i32], log: u32, states: &mut [State; 1 << MAX_STATE]) -> Option<()> {
    let size = 1usize << log;
    let mut top = size;
    let mut next = [0u32; LOOK as usize + 1];
    for (weight, &count) in counts.iter().enumerate() {
        next[weight] = count.unsigned_abs();
        if count < 0 {
            top -= 1;
            states[top].weight = weight as u8;
        }
    }
    let mut at = 0;
    for (weight, &count) in counts.iter().enumerate() {
        for _ in 0..count {
            states[at].weight = weight as u8;
            at = (at + size / 2 + size / 8 + 3) % size;
            while at >= top {
                at = (at + size / 2 + size / 8 + 3) % size;
            }
        }
    }
    if at != 0 {
        return None;
    }
    for state in &mut states[..size] {
        let number = next[usize::from(state.weight)];
        next[usize::from(state.weight)] += 1;
        state.bits = log - number.ilog2();
        state.next = ((number as usize) << state.bits) - size;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zstd_safe::DCtx;

    use super::*;
    use crate::codec::frame::{Frames, Method, bound};
    use crate::codec::tests::Random;

    fn frame_of(plane: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; bound(plane.len())];
        let len = Frames::new().compress(Method::Huffman, plane, &mut frame).unwrap();
        frame.truncate(len);
        frame
    }

    /// The decoded bytes if this decoder accepts the frame; then zstd must decode it to the same bytes.
    fn decode(huffman: &mut Huffman, frame: &[u8], len: usize) -> Option<Vec<u8>> {
        let mut found = vec![0xA5; len];
        if !is_worthwhile(frame, len) {
            return None;
        }
        huffman.decode(frame, &mut found)?;
        let mut expected = vec![0x5A; len];
        assert_eq!(DCtx::create().decompress(&mut expected, frame), Ok(len), "accepted, and not by zstd");
        assert!(found == expected, "{len} bytes that are not those of zstd");
        Some(found)
    }

    fn noise(len: usize, values: u64) -> Vec<u8> {
        let mut random = Random(1);
        (0..len).map(|_| (random.next() % values) as u8).collect()
    }

    /// Geometrically distributed bytes: with `odds` of 256 a byte is the first value, else with the same odds the
    /// second, and so on. The first value depends on the seed.
    fn geometric(odds: u32, len: usize, seed: u64) -> Vec<u8> {
        let mut random = Random(seed);
        let mut next = || random.next() as u32 & 255;
        let first = seed as u8;
        (0..len).map(|_| first.wrapping_add((0..60).take_while(|_| next() >= odds).count() as u8)).collect()
    }

    #[test]
    fn planes_of_all_sizes_and_odds() {
        let mut huffman = Huffman::new();
        let sizes = [WORTHWHILE_LEN, 65_537, 65_538, 65_539, 100_001, (128 << 10) - 1, 128 << 10, (128 << 10) + 40_000];
        for len in sizes.into_iter().chain([512 << 10, 1 << 20]) {
            for odds in [80, 100, 128, 160, 200, 230, 250] {
                let plane = geometric(odds, len, len as u64 * 31 + u64::from(odds));
                let found = decode(&mut huffman, &frame_of(&plane), len);
                assert!(found.is_some_and(|found| found == plane), "{len} bytes, odds {odds}");
            }
        }
    }

    #[test]
    fn what_is_left_to_zstd() {
        let mut huffman = Huffman::new();
        let mut refuses = |frame: &[u8], len| assert!(decode(&mut huffman, frame, len).is_none(), "{len} bytes");
        let plane = geometric(100, 100_000, 1);
        let frame = frame_of(&plane);
        refuses(&frame, 99_999);
        refuses(&frame, 100_001);
        refuses(&frame[..frame.len() - 1], 100_000);
        refuses(&[&frame[..], &[0]].concat(), 100_000);
        refuses(&frame_of(&plane[..WORTHWHILE_LEN - 1]), WORTHWHILE_LEN - 1);
        refuses(&frame_of(&noise(100_000, 12)), 100_000); // more than three bits each
        let repeats = [&plane[..50_000], &plane[..50_000]].concat();
        let mut frame = vec![0; bound(repeats.len())];
        let len = Frames::new().compress(Method::Search, &repeats, &mut frame).unwrap();
        refuses(&frame[..len], repeats.len());
        refuses(&[], 100_000);
    }

    #[test]
    fn a_block_of_noise_between_others() {
        let mut plane = geometric(128, 6 << 17, 5);
        plane.splice(1 << 17..2 << 17, noise(1 << 17, 256));
        assert!(decode(&mut Huffman::new(), &frame_of(&plane), plane.len()).is_some_and(|found| found == plane));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_odds(odds in 60u32..256, len in WORTHWHILE_LEN..200_000, seed: u64) {
            let plane = geometric(odds, len, seed);
            let found = decode(&mut Huffman::new(), &frame_of(&plane), len);
            prop_assert!(found.is_none_or(|found| found == plane));
        }

        /// Changed bytes cause no panic, and whatever is accepted is what zstd decodes.
        #[test]
        fn damage(odds in 60u32..256, seed: u64, hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4)) {
            let len = WORTHWHILE_LEN + (seed % 5000) as usize;
            let mut frame = frame_of(&geometric(odds, len, seed));
            for (place, byte, early) in hits {
                let count = if early { 40.min(frame.len()) } else { frame.len() };
                frame[place.index(count)] = byte;
            }
            decode(&mut Huffman::new(), &frame, len);
        }

        /// Random bytes as the description of a code.
        #[test]
        fn any_description(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            Huffman::new().read_code(&bytes);
        }
    }
}
