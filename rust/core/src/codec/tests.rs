use proptest::prelude::*;
use zstd_safe::{CCtx, CParameter};

use super::*;
use crate::error::ErrorKind;

const CHOICES: [CodecChoice; 5] =
    [CodecChoice::Auto, CodecChoice::Raw, CodecChoice::Zstd, CodecChoice::Planes, CodecChoice::Delta];
const CLASSES: [Class; 3] = [Class::Float, Class::Integer, Class::Bytes];
const FLOAT32: Element = Element { width: 4, class: Class::Float };

/// What chunks look like; each kind leads the encoder another way.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Random,
    Constant,
    FewValues,
    Normal,
    Sparse,
    Tiled,
}

const KINDS: [Kind; 6] = [Kind::Random, Kind::Constant, Kind::FewValues, Kind::Normal, Kind::Sparse, Kind::Tiled];

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// About normal, by the central limit.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next() as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    }
}

fn data(kind: Kind, width: usize, len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        let value = random.normal() * 0.05;
        let word = match (kind, width) {
            (Kind::Random, _) => random.next(),
            (Kind::Constant, _) => 0x0123_4567_89AB_CDEF,
            (Kind::FewValues, _) => random.next() & 0x0101_0303_0101_0101,
            (Kind::Sparse, _) if !random.next().is_multiple_of(20) => 0,
            (Kind::Tiled, _) => (bytes.len() as u64 % 800).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed,
            (_, 2) => u64::from((value as f32).to_bits() >> 16),
            (_, 4) => u64::from((value as f32).to_bits()),
            (_, 8) => value.to_bits(),
            _ => (value * 400.0) as i64 as u64,
        };
        bytes.extend_from_slice(&word.to_le_bytes()[..width]);
    }
    bytes.truncate(len);
    bytes
}

fn round_trip(raw: &[u8], element: Element, choice: CodecChoice) -> (Codec, Vec<u8>) {
    let mut encoder = Encoder::new();
    let (codec, encoded) = encoder.encode(raw, element, choice).unwrap();
    assert!(encoded.len() <= raw.len());
    assert_eq!(codec == Codec::Raw, encoded.len() == raw.len());
    let mut back = vec![0xA5; raw.len()];
    Decoder::new().decode_into(codec, encoded, &mut back).unwrap();
    assert!(back == raw, "{element:?} {choice:?} {codec:?} of {} bytes", raw.len());
    (codec, encoded.to_vec())
}

#[test]
fn every_short_length() {
    for width in [1, 2, 4, 8] {
        for kind in KINDS {
            let bytes = data(kind, width, 301, 7);
            for len in 0..=300 {
                for class in CLASSES {
                    round_trip(&bytes[1..=len], Element { width, class }, CodecChoice::Auto);
                    round_trip(&bytes[..len], Element { width, class }, CodecChoice::Planes);
                }
            }
        }
    }
}

#[test]
fn lengths_around_blocks() {
    for (width, kind) in [(1, Kind::Sparse), (2, Kind::Normal), (4, Kind::Normal), (8, Kind::FewValues)] {
        for block in [128 << 10, 1 << 20] {
            let bytes = data(kind, width, block + 2 * width + 1, 3);
            for len in [block - width, block - 1, block, block + 1, block + width] {
                for choice in CHOICES {
                    round_trip(&bytes[1..=len], Element { width, class: Class::Float }, choice);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunk(
        width in prop::sample::select(vec![1usize, 2, 4, 8]),
        class in prop::sample::select(CLASSES.to_vec()),
        choice in prop::sample::select(CHOICES.to_vec()),
        kind in prop::sample::select(KINDS.to_vec()),
        len in 0usize..40_000,
        skip in 0usize..9,
        seed: u64,
    ) {
        let bytes = data(kind, width, len + skip, seed);
        round_trip(&bytes[skip..], Element { width, class }, choice);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        codec in prop::sample::select(vec![Codec::Raw, Codec::Zstd, Codec::Planes]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        len in 0usize..400,
    ) {
        let _ = Decoder::new().decode_into(codec, &bytes, &mut vec![0; len]);
    }
}

#[test]
fn choices_are_met() {
    let floats = data(Kind::Normal, 4, 1 << 20, 1);
    assert_eq!(round_trip(&floats, FLOAT32, CodecChoice::Auto).0, Codec::Planes);
    assert_eq!(round_trip(&floats, FLOAT32, CodecChoice::Delta).0, Codec::Planes);
    assert_eq!(round_trip(&floats, FLOAT32, CodecChoice::Zstd).0, Codec::Zstd);
    assert_eq!(round_trip(&floats, FLOAT32, CodecChoice::Raw).0, Codec::Raw);
    let text = b"{\"name\": \"dense\", \"units\": 64}, ".repeat(1000);
    for choice in [CodecChoice::Auto, CodecChoice::Zstd, CodecChoice::Delta] {
        assert_eq!(round_trip(&text, Element::OPAQUE, choice).0, Codec::Zstd);
    }
    assert_eq!(round_trip(&text, Element::OPAQUE, CodecChoice::Planes).0, Codec::Planes);
    // 3 does not divide the length: no planes.
    assert_eq!(round_trip(&text[..text.len() - 3], FLOAT32, CodecChoice::Planes).0, Codec::Zstd);
    for choice in CHOICES {
        assert_eq!(round_trip(&data(Kind::Random, 8, 1 << 20, 1), FLOAT32, choice).0, Codec::Raw);
    }
}

#[test]
fn ratios() {
    for (width, class, kind, most) in [
        (4, Class::Float, Kind::Normal, 0.835),
        (2, Class::Float, Kind::Normal, 0.70),
        (8, Class::Float, Kind::Normal, 0.95),
        (4, Class::Float, Kind::Sparse, 0.08),
        (4, Class::Float, Kind::Tiled, 0.01),
        (4, Class::Float, Kind::Constant, 0.0001),
        (8, Class::Integer, Kind::FewValues, 0.16),
        (1, Class::Integer, Kind::Normal, 0.85),
        (1, Class::Bytes, Kind::Sparse, 0.15),
    ] {
        let raw = data(kind, width, 1 << 20, 5);
        let (codec, encoded) = round_trip(&raw, Element { width, class }, CodecChoice::Auto);
        let ratio = encoded.len() as f64 / raw.len() as f64;
        assert!(ratio <= most, "{kind:?} of width {width}: {codec:?} gives {ratio:.4}");
    }
}

#[test]
fn the_past_of_an_encoder_does_not_show() {
    let mut used = Encoder::new();
    let mut decoder = Decoder::new();
    for round in 0..3 {
        for (n, kind) in KINDS.into_iter().enumerate() {
            for width in [1, 2, 4, 8] {
                let element = Element { width, class: CLASSES[(n + round) % 3] };
                let raw = data(kind, width, 40_000 * (n + 1) / 8 * 8, round as u64);
                for choice in CHOICES {
                    let fresh = round_trip(&raw, element, choice);
                    let (codec, encoded) = used.encode(&raw, element, choice).unwrap();
                    assert!((codec, encoded) == (fresh.0, fresh.1.as_slice()), "{kind:?} {element:?} {choice:?}");
                    let mut back = vec![0; raw.len()];
                    decoder.decode_into(codec, encoded, &mut back).unwrap();
                    assert!(back == raw);
                }
            }
        }
    }
}

/// The bytes of version 1's encoder. When they move on purpose, chunks that users already have stay readable, but packs
/// of the same state are no longer the same files: say so in the changelog.
#[test]
fn encoded_bytes_are_pinned() {
    let mut hasher = blake3::Hasher::new();
    for kind in KINDS {
        for width in [1, 2, 4, 8] {
            for class in CLASSES {
                let raw = data(kind, width, 300_000, 11);
                let (codec, encoded) = round_trip(&raw, Element { width, class }, CodecChoice::Auto);
                hasher.update(&[codec as u8]).update(&encoded);
            }
        }
    }
    assert_eq!(hasher.finalize().to_hex().as_str(), "f7fd350942228febf17d65b31001725a635ff636822d8cfd1899507f6f185abc");
}

#[test]
fn damage_is_refused_or_harmless() {
    let mut decoder = Decoder::new();
    for (kind, width, choice) in [
        (Kind::Normal, 4, CodecChoice::Planes),
        (Kind::Sparse, 2, CodecChoice::Planes),
        (Kind::Constant, 8, CodecChoice::Planes),
        (Kind::FewValues, 1, CodecChoice::Planes),
        (Kind::Sparse, 4, CodecChoice::Zstd),
    ] {
        let raw = data(kind, width, 1600, 9);
        let (codec, encoded) = round_trip(&raw, Element { width, class: Class::Float }, choice);
        assert_ne!(codec, Codec::Raw);
        let mut dst = vec![0; raw.len()];
        for len in 0..encoded.len() {
            let error = decoder.decode_into(codec, &encoded[..len], &mut dst).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind:?} cut at {len}");
        }
        let mut longer = encoded.clone();
        longer.push(0);
        assert!(decoder.decode_into(codec, &longer, &mut dst).is_err());
        // A constant fits any length; only the chunk's id can tell.
        let wrongs = if matches!(kind, Kind::Constant) { &[1][..] } else { &[0, 1, 1592, 1599, 1601, 1608, 3200] };
        for &wrong in wrongs {
            assert!(decoder.decode_into(codec, &encoded, &mut vec![0; wrong]).is_err(), "{kind:?} as {wrong} bytes");
        }
        let mut flipped = encoded.clone();
        for bit in 0..encoded.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Err(error) = decoder.decode_into(codec, &flipped, &mut dst) {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        decoder.decode_into(codec, &encoded, &mut dst).unwrap();
        assert!(dst == raw, "damage left nothing behind in the decoder");
    }
}

fn frame_of(raw: &[u8], parameters: &[CParameter]) -> Vec<u8> {
    let mut context = CCtx::create();
    for &parameter in parameters {
        context.set_parameter(parameter).unwrap();
    }
    let mut frame = vec![0; zstd_safe::compress_bound(raw.len())];
    let len = context.compress2(&mut frame[..], raw).unwrap();
    frame.truncate(len);
    frame
}

#[test]
fn bombs_are_refused_without_memory() {
    let mut decoder = Decoder::new();
    let mut dst = vec![0; 1000];
    let idle = decoder.frames.zstd.sizeof();
    // 64 MiB in a few kilobytes, with and without saying so, alone and as a plane.
    for declared in [true, false] {
        let bomb = frame_of(&vec![0; 64 << 20], &[CParameter::ContentSizeFlag(declared)]);
        let mut plane = vec![1, 0, 1];
        plane.extend_from_slice(&(bomb.len() as u32).to_le_bytes());
        plane.extend_from_slice(&bomb);
        for (codec, encoded) in [(Codec::Zstd, &bomb), (Codec::Planes, &plane)] {
            assert_eq!(decoder.decode_into(codec, encoded, &mut dst).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
    // A header that asks for a window of 2 GiB and more (no content size; exponents 21 to 31), then an empty last
    // block.
    for exponent in 21..32u8 {
        let header = [0x28, 0xB5, 0x2F, 0xFD, 0x00, exponent << 3, 0x01, 0x00, 0x00];
        assert!(decoder.decode_into(Codec::Zstd, &header, &mut dst).is_err());
    }
    assert_eq!(decoder.frames.zstd.sizeof(), idle);
    assert!(decoder.scratch.len() <= dst.len());
}

#[test]
fn exactly_one_frame() {
    let mut decoder = Decoder::new();
    let half = frame_of(&[7; 500], &[]);
    let whole = frame_of(&[7; 1000], &[CParameter::ChecksumFlag(true), CParameter::ContentSizeFlag(false)]);
    let skippable = [0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 0];
    let mut dst = vec![0; 1000];
    decoder.decode_into(Codec::Zstd, &whole, &mut dst).unwrap();
    for bad in [[&half[..], &half].concat(), [&skippable[..], &whole].concat(), [&whole[..], &skippable].concat()] {
        assert!(decoder.decode_into(Codec::Zstd, &bad, &mut dst).is_err());
    }
    let mut dst = vec![];
    assert!(decoder.decode_into(Codec::Zstd, &skippable, &mut dst).is_err());
    decoder.decode_into(Codec::Zstd, &frame_of(&[], &[]), &mut dst).unwrap();
}

/// A second implementation may write what this encoder does not.
#[test]
fn foreign_planes_are_read() {
    let mut decoder = Decoder::new();
    let mut dst = [0; 4];
    // Width 1 rotated; width 2 with a constant and a stored plane.
    decoder.decode_into(Codec::Planes, &[1, 1, 0, 4, 0, 0, 0, 1, 2, 3, 0x80], &mut dst).unwrap();
    assert_eq!(dst, [0x80, 1, 0x81, 0x40]);
    decoder.decode_into(Codec::Planes, &[2, 0, 2, 1, 0, 0, 0, 0, 2, 0, 0, 0, 9, 5, 6], &mut dst).unwrap();
    assert_eq!(dst, [9, 5, 9, 6]);
    decoder.decode_into(Codec::Planes, &[2, 1, 2, 1, 0, 0, 0, 0, 2, 0, 0, 0, 9, 5, 6], &mut dst).unwrap();
    assert_eq!(dst, [0x84, 0x82, 0x04, 0x83]);
}

/// What a glimpse sees of a chunk is how many elements kept the byte below the exponent, coded or not.
#[test]
fn a_glimpse_counts_what_was_kept() {
    let floats: Vec<f32> = (0..40_000).map(|i| 1.0 + (i * 2_654_435_761_u64 % 1_000_003) as f32 / 1e6).collect();
    // Every eighth element is zero, so all planes are worth coding.
    let gaps: Vec<f32> = floats.iter().enumerate().map(|(i, &f)| if i % 8 == 0 { 0.0 } else { f }).collect();
    for (floats, coded) in [(floats, false), (gaps, true)] {
        let raw: Vec<u8> = floats.iter().flat_map(|f| f.to_le_bytes()).collect();
        let moved: Vec<u8> = floats.iter().flat_map(|f| (f * 1.5).to_le_bytes()).collect();
        let element = Element { width: 4, class: Class::Float };
        let mut encoder = Encoder::new();
        let (codec, encoded) = encoder.encode(&raw, element, CodecChoice::Auto).unwrap();
        assert_eq!(codec, Codec::Planes);
        let glimpse = Glimpse::new(&encoded[..Glimpse::HEADER], raw.len(), 4).unwrap();
        assert!(glimpse.is_above_noise());
        assert_eq!(glimpse.coded, coded);
        let mut plane = vec![0; glimpse.plane_len];
        let bytes = &encoded[glimpse.offset..][..glimpse.encoded];
        let codec = if coded { Codec::Zstd } else { Codec::Raw };
        Decoder::new().decode_into(codec, bytes, &mut plane).unwrap();
        let kept = |raw: &[u8]| -> (usize, usize) {
            glimpse.runs().fold((0, 0), |(kept, seen), (first, len)| {
                (kept + glimpse.equal(raw, first, &plane[first..][..len]), seen + len)
            })
        };
        assert_eq!(kept(&raw), (4096, 4096));
        let (same, seen) = kept(&moved);
        assert!(same * 3 < seen, "{same} of {seen}");
        assert!(Glimpse::new(&encoded[..Glimpse::HEADER], raw.len(), 2).is_none());
        assert!(Glimpse::new(&encoded[..8], raw.len(), 4).is_none());
    }
}

#[test]
fn names_and_tags() {
    for tag in 0..=255 {
        assert_eq!(Codec::from_tag(tag).map(|codec| codec as u8), (tag < 4).then_some(tag));
    }
    for name in ["raw", "zstd", "planes", "delta", "auto"] {
        assert_eq!(format!("{:?}", name.parse::<CodecChoice>().unwrap()).to_lowercase(), name);
    }
    assert!("lz4".parse::<CodecChoice>().unwrap_err().message().contains("raw, zstd, planes or delta"));
}

#[test]
fn misuse_is_an_error() {
    let element = Element { width: 3, class: Class::Float };
    assert_eq!(Encoder::new().encode(&[1; 9], element, CodecChoice::Auto).unwrap_err().kind(), ErrorKind::InvalidInput);
    let error = Decoder::new().decode_into(Codec::Delta, &[1], &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
