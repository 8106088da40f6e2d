//! The throughput of the kernels and codecs, with that of memcpy and BLAKE3 on the same bytes for comparison.
//!
//! `cargo bench -p lamina-core --bench kernels [filter]`. Bytes per second are those of the raw data. Each encoder
//! prints the ratio that it reaches, after a round trip.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may stop, and reports the ratios")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use lamina_core::internals::{available, md5_many_at, merge_at, split_at};
use lamina_core::{Class, Codec, CodecChoice, Decoder, Element, Encoder};

/// The bytes of a chunk, and the number of chunks of a benchmark: more than the caches hold, as in a save.
const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 64;

fn group<'a>(c: &'a mut Criterion, name: &str, bytes: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

/// xorshift64*: fast enough to fill 64 MiB at once.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A normally distributed number (Box-Muller).
    fn normal(&mut self) -> f64 {
        let mut uniform = || (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform()).cos()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

/// Numbers like trained weights: normally distributed, each row of 256 with its own scale.
fn weights(len: usize, width: usize) -> Vec<u8> {
    let mut random = Random(1);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let scale = 0.03 * (0.3 * random.normal()).exp();
        for _ in 0..256 {
            let value = random.normal() * scale;
            match width {
                2 => bytes.extend_from_slice(&((value as f32).to_bits() >> 16).to_le_bytes()[..2]),
                4 => bytes.extend_from_slice(&(value as f32).to_le_bytes()),
                _ => bytes.extend_from_slice(&value.to_le_bytes()),
            }
        }
    }
    bytes
}

fn memory(c: &mut Criterion) {
    let bytes = Random(1).bytes(CHUNK * CHUNKS);
    let mut copy = vec![0; bytes.len()];
    let mut group = group(c, "beside", bytes.len());
    group.bench_function("memcpy", |b| b.iter(|| copy.copy_from_slice(black_box(&bytes))));
    group.bench_function("blake3", |b| {
        b.iter(|| bytes.chunks(CHUNK).for_each(|chunk| _ = black_box(blake3::hash(chunk))));
    });
}

fn planes(c: &mut Criterion) {
    let bytes = Random(1).bytes(CHUNK);
    let mut group = group(c, "planes", CHUNK);
    for width in [2, 4, 8] {
        for rotate in [false, true] {
            for level in available() {
                let mut out = vec![0; CHUNK];
                let mut back = vec![0; CHUNK];
                let name = format!("{width}{}/{}", if rotate { "r" } else { "" }, level.name());
                group.bench_function(format!("split/{name}"), |b| {
                    b.iter(|| {
                        let mut planes: Vec<&mut [u8]> = out.chunks_exact_mut(CHUNK / width).collect();
                        split_at(level, black_box(&bytes), rotate, &mut planes);
                    });
                });
                let planes: Vec<&[u8]> = out.chunks_exact(CHUNK / width).collect();
                group.bench_function(format!("merge/{name}"), |b| {
                    b.iter(|| merge_at(level, black_box(&planes), rotate, &mut back));
                });
                assert!(back == bytes || back == vec![0; CHUNK], "{name} does not give back what it got");
            }
        }
    }
}

fn codecs(c: &mut Criterion) {
    let floats = |width| Element { width, class: Class::Float };
    for (name, element, bytes) in [
        ("float32", floats(4), weights(CHUNK * CHUNKS, 4)),
        ("bfloat16", floats(2), weights(CHUNK * CHUNKS, 2)),
        ("float64", floats(8), weights(CHUNK * CHUNKS, 8)),
        ("zeros", floats(4), vec![0; CHUNK * CHUNKS]),
        ("random", Element::OPAQUE, Random(1).bytes(CHUNK * CHUNKS)),
    ] {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        let mut encode = |chunk| -> (Codec, Vec<u8>) {
            let (codec, encoded) = encoder.encode(chunk, element, CodecChoice::Auto).unwrap();
            (codec, encoded.to_vec())
        };
        let encoded: Vec<_> = bytes.chunks(CHUNK).map(&mut encode).collect();
        let mut back = vec![0; bytes.len()];
        for ((codec, encoded), back) in encoded.iter().zip(back.chunks_mut(CHUNK)) {
            decoder.decode_into(*codec, encoded, back).unwrap();
        }
        assert!(back == bytes, "{name} does not come back");
        let total: usize = encoded.iter().map(|(_, encoded)| encoded.len()).sum();
        println!("{name}: {} at ratio {:.4}", encoded[0].0.name(), total as f64 / bytes.len() as f64);

        let mut group = group(c, "codec", bytes.len());
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| {
                for chunk in bytes.chunks(CHUNK) {
                    _ = black_box(encoder.encode(chunk, element, CodecChoice::Auto).unwrap());
                }
            });
        });
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| {
                for ((codec, encoded), back) in encoded.iter().zip(back.chunks_mut(CHUNK)) {
                    decoder.decode_into(*codec, encoded, back).unwrap();
                }
            });
        });
    }
}

fn md5(c: &mut Criterion) {
    let bytes = Random(1).bytes(128 << 20);
    let inputs: Vec<&[u8]> = bytes.chunks(8 << 20).collect();
    let mut group = group(c, "md5", bytes.len());
    for level in available() {
        group.bench_function(format!("16 x 8 MiB/{}", level.name()), |b| {
            b.iter(|| md5_many_at(level, black_box(&inputs)));
        });
    }
}

criterion_group!(benches, memory, planes, codecs, md5);
criterion_main!(benches);
