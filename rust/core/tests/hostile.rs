//! Every decoder with damaged, hostile and random bytes: it returns an error or the right data, never panics, and never
//! uses more memory than the size of the input justifies. The seeds are fixed, so that every run finds the same. What
//! was found once is in [`corpus`].
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use lamina_core::internals::{Chunks, Pack, Placement, pack, pack::Entry, pack::Kind};
use lamina_core::{
    Body, ChunkRef, Codec, CodecChoice, Decoder, Digest, Digest as ChunkId, Element, Encoder, ErrorKind, FileEntry,
    MAX_CHUNK, PackName, Reader, Repository, Result, Snapshot, Structure, Task, TensorEntry, envelope,
};

// ---- memory ---------------------------------------------------------------------------------------------------------

/// Counts the bytes that the thread has allocated, and their peak. The contexts of zstd are allocated by C and not
/// counted; they are allocated once, before anything hostile is read.
struct Counting;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // When a thread ends, its counters may be gone already.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed to the system's allocator with the same arguments.
#[allow(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: see above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: see above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The peak of the bytes that `work` allocated, in addition to those before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

// ---- mutation -------------------------------------------------------------------------------------------------------

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Numbers at which arithmetic may overflow.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

/// Makes one to four changes: bits, bytes, numbers, cuts, repetitions, and moved pieces.
fn mutated(valid: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let n = random.below(64).min(bytes.len() - at);
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at + n, [])),
            4 => {
                let noise = random.bytes(n);
                drop(bytes.splice(at..at, noise));
            }
            5 => {
                let piece = bytes[at..at + n].to_vec();
                let to = random.below(bytes.len());
                drop(bytes.splice(to..to, piece));
            }
            _ => {
                let (edge, width) = (EDGES[random.below(EDGES.len())].to_le_bytes(), [1, 2, 4, 8][random.below(4)]);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&edge[..end - at]);
            }
        }
    }
    bytes
}

/// Passes mutations of `valid`, and noise, to `decode`. It may fail with `Corrupt` or `Unsupported`. It may hold at
/// most `fixed` bytes plus `factor` times the input.
fn fuzz(
    name: &str,
    cases: usize,
    valid: &[Vec<u8>],
    fixed: usize,
    factor: usize,
    decode: impl Fn(&[u8]) -> Result<()>,
) {
    let mut random =
        Random(0x9e37_79b9_7f4a_7c15 ^ name.bytes().fold(0, |h: u64, b| h.wrapping_mul(31).wrapping_add(u64::from(b))));
    let mut accepted = 0;
    for case in 0..cases {
        let input = match case % 8 {
            0 => {
                let n = random.below(300);
                random.bytes(n)
            }
            _ => {
                let chosen = random.below(valid.len());
                mutated(&valid[chosen], &mut random)
            }
        };
        let (result, held) = peak(|| decode(&input));
        match result {
            Ok(()) => accepted += 1,
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{name}, case {case}: {e}")
            }
        }
        assert!(held <= fixed + factor * input.len(), "{name}, case {case}: {held} bytes for {}", input.len());
    }
    for input in valid {
        assert!(decode(input).is_ok(), "{name}: what is valid is refused");
    }
    assert!(accepted < cases, "{name}: everything was accepted");
}

// ---- valid inputs, and right digests of wrong contents
// ---------------------------------------------------------------

/// An envelope with the right digest, for any body.
fn sealed(kind: &str, version: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{{\"lamina\":\"{kind}\",\"version\":{version},\"blake3\":\"").into_bytes();
    let tail = [b"\",\n\"body\":", body, b"\n}\n"].concat();
    let digest = Digest::of(&[head.as_slice(), &tail].concat()).hex();
    [head.as_slice(), digest.as_bytes(), &tail].concat()
}

fn chunk_ref(n: u8) -> ChunkRef {
    ChunkRef { id: ChunkId::of(&[n]), len: 100 + u32::from(n) }
}

fn body() -> Vec<u8> {
    let json = r#"{"required":[],"optional":["x"],"created_at":"2026-01-01T00:00:00.000Z","series":"s","kind":"weights","epoch":3,
        "logs":{"loss":0.5,"acc":"nan"},"monitor":"loss","mode":"min","value":0.5,"best":true,"metadata":{"a":[1,{"b":null}]},"new":1}"#;
    let mut body: Body = serde_json::from_str(json).unwrap();
    body.state.length = 201;
    body.state.structure = vec![chunk_ref(2)];
    body.state.root = vec![chunk_ref(0), chunk_ref(1)];
    serde_json::to_vec(&body).unwrap()
}

fn structure() -> Structure {
    let tensor = |n: u64| TensorEntry {
        name: format!("l/{n}"),
        dtype: "<f4".into(),
        shape: vec![2, 3],
        role: "weights".into(),
        offset: 24 * n,
    };
    let file = |path: &str, at: u64| FileEntry {
        path: path.into(),
        size: 24,
        tensors: vec![],
        variables: vec![],
        extents: vec![(at, 24)],
    };
    let mut first = file("a/b.h5", 0);
    first.tensors = vec![tensor(0)];
    Structure { files: vec![first, file("c", 24)], training: vec![tensor(2)] }
}

fn entries(count: u8) -> Vec<Entry> {
    let entry = |n: u8| Entry {
        id: ChunkId::of(&[n]),
        offset: 8 + 10 * u64::from(n),
        encoded: 10,
        raw: 10,
        codec: Codec::Raw,
        kind: Kind::Content,
        base: None,
    };
    (0..count).map(entry).collect()
}

/// A footer with changed fields and a right digest.
fn resealed(mut footer: Vec<u8>) -> Vec<u8> {
    if let Some(size) = footer.len().checked_sub(40) {
        let digest = Digest::of(&[&pack::MAGIC[..], &footer[..size]].concat());
        footer[size..size + 32].copy_from_slice(digest.as_bytes());
        footer[size + 32..].copy_from_slice(pack::END_MAGIC);
    }
    footer
}

fn placement(packs: u8) -> Vec<u8> {
    let mut placement = Placement::default();
    for n in 1..=packs {
        let entries = entries(n);
        let length = 8 + 10 * u64::from(n) + pack::footer(&entries, 0).len() as u64;
        placement.insert(Pack { name: PackName::of(&[n]), length, entries, salt: 0 });
    }
    let names: HashSet<_> = (1..=packs).map(|n| PackName::of(&[n])).collect();
    placement.to_bytes(&names)
}

fn with_digest(mut bytes: Vec<u8>) -> Vec<u8> {
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

// ---- the decoders ---------------------------------------------------------------------------------------------------

#[test]
fn envelopes() {
    let valid: Vec<_> = ["config", "alias", "journal", "condemned", "snapshot"]
        .map(|kind| sealed(kind, "1", br#"{"required":["delta"],"optional":[],"packs":{"a":["b"],"c":null}}"#))
        .into();
    let decode = |bytes: &[u8]| {
        let kind = ["config", "alias", "journal", "condemned", "snapshot"];
        let kind = kind.into_iter().find(|k| bytes.windows(k.len()).any(|w| w == k.as_bytes()));
        envelope::unseal(bytes, kind.unwrap_or("config"), "it").map(drop)
    };
    fuzz("envelope", 4000, &valid, 8 << 10, 8, decode);
}

/// A right digest does not make the content trustworthy.
#[test]
fn bodies_behind_a_right_digest() {
    let decode = |body: &[u8]| {
        let one_line: Vec<u8> = body.iter().copied().filter(|b| *b != b'\n').collect();
        Snapshot::parse(&sealed("snapshot", "1", &one_line), 1, "it").map(drop)
    };
    // A JSON value of two bytes of text takes some dozen bytes of memory.
    fuzz("snapshot", 6000, &[body()], 64 << 10, 200, decode);
}

#[test]
fn structures() {
    let valid = structure().to_bytes().unwrap();
    fuzz("structure", 6000, &[valid], 64 << 10, 200, |bytes| Structure::parse(bytes, 72).map(drop));
}

#[test]
fn nodes() {
    let mut valid = vec![];
    (0..40).for_each(|n| chunk_ref(n).append_to(&mut valid));
    fuzz("node", 6000, &[valid], 4 << 10, 4, |bytes| ChunkRef::parse_node(bytes).map(drop));
}

#[test]
fn footers() {
    let footer = pack::footer(&entries(5), 7);
    let length = (8 + 50 + footer.len()) as u64;
    let decode = |bytes: &[u8]| pack::parse_footer(bytes, length, "it").map(drop);
    fuzz("footer", 4000, std::slice::from_ref(&footer), 8 << 10, 8, decode);
    let decode = |bytes: &[u8]| pack::parse_footer(&resealed(bytes.to_vec()), length, "it").map(drop);
    fuzz("footer with a right digest", 8000, &[footer], 8 << 10, 8, decode);
}

#[test]
fn placements() {
    let valid = placement(4);
    fuzz("placement", 4000, std::slice::from_ref(&valid), 16 << 10, 16, |bytes| {
        Placement::parse(bytes, "it").map(drop)
    });
    let decode = |bytes: &[u8]| Placement::parse(&with_digest(bytes.to_vec()), "it").map(drop);
    fuzz("placement with a right digest", 8000, &[valid[..valid.len() - 32].to_vec()], 16 << 10, 16, decode);
}

#[test]
fn pack_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it.pack");
    let valid = [&pack::MAGIC[..], &[7; 50], &pack::footer(&entries(5), 0)].concat();
    let decode = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        pack::read_footer(&std::fs::File::open(&path).unwrap(), &path).map(drop)
    };
    fuzz("pack", 3000, &[valid], 16 << 10, 8, decode);
}

fn encoded(choice: CodecChoice, element: Element, raw: &[u8]) -> (Codec, Vec<u8>) {
    let mut encoder = Encoder::new();
    let (codec, bytes) = encoder.encode(raw, element, choice).unwrap();
    (codec, bytes.to_vec())
}

#[test]
fn codecs() {
    let floats: Vec<u8> = (0..4096u32).flat_map(|n| (1.0 + f64::from(n) as f32 / 5000.0).to_le_bytes()).collect();
    let (_, element) = lamina_core::parse_dtype("<f4").unwrap();
    for (name, choice) in [("zstd", CodecChoice::Zstd), ("planes", CodecChoice::Planes)] {
        let (codec, valid) = encoded(choice, element, &floats);
        assert_eq!(codec.name(), name);
        let decode = |bytes: &[u8]| {
            let mut dst = vec![0; floats.len()];
            Decoder::new().decode_into(codec, bytes, &mut dst)
        };
        fuzz(name, 8000, &[valid], 3 * floats.len() + (4 << 10), 2, decode);
    }
}

#[test]
fn dtypes() {
    let valid: Vec<Vec<u8>> = ["<f4", "|V999999999", "bfloat16", "<U12", ">c16"].map(|d| d.as_bytes().to_vec()).into();
    let decode = |bytes: &[u8]| {
        let name = String::from_utf8_lossy(bytes);
        // A dtype comes from the caller, or from a structure, where a wrong one is damage.
        let shapes = [&[][..], &[u64::MAX], &[u64::MAX, u64::MAX, 2], &[0, u64::MAX], &[1; 65]];
        for shape in shapes {
            drop(lamina_core::internals::tensor_bytes(&name, shape));
        }
        lamina_core::parse_dtype(&name).map(drop).map_err(|e| lamina_core::Error::corrupt(e.message()))
    };
    fuzz("dtype", 4000, &valid, 4 << 10, 16, decode);
}

// ---- bombs ----------------------------------------------------------------------------------------------------------

#[test]
fn declared_sizes_allocate_nothing() {
    let mut decoder = Decoder::new();
    let mut dst = vec![0; 1000];
    // A zstd frame that declares 2^62 bytes of content, and one with a window of 2 GiB.
    for frame in [
        &[0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0][..],
        &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 1, 0, 0],
    ] {
        let (result, held) = peak(|| decoder.decode_into(Codec::Zstd, frame, &mut dst));
        assert!(result.is_err());
        assert!(held < 4 << 10, "{held}");
    }
    // A footer that declares 2^32 - 1 entries.
    let mut footer = pack::footer(&entries(5), 0);
    let fields = footer.len() - 80;
    for (at, bytes) in [(4, &u32::MAX.to_le_bytes()[..]), (8, &u64::MAX.to_le_bytes()[..])] {
        footer[fields + at..][..bytes.len()].copy_from_slice(bytes);
        let footer = resealed(footer.clone());
        let (result, held) = peak(|| pack::parse_footer(&footer, (58 + footer.len()) as u64, "it"));
        assert!(result.is_err());
        assert!(held < 4 << 10, "{held}");
    }
    // A placement of 2^32 - 1 packs.
    let mut bytes = placement(1);
    bytes.truncate(bytes.len() - 32);
    bytes[12..16].fill(255);
    let bytes = with_digest(bytes);
    let (result, held) = peak(|| Placement::parse(&bytes, "it"));
    assert!(result.is_err());
    assert!(held < 16 << 10, "{held}");
}

/// A sparse file that ends in a trailer which declares a footer of gigabytes.
#[test]
fn a_footer_of_more_entries_than_there_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.pack");
    let (count, each) = (pack::MAX_ENTRIES + 1, 44);
    let (footer, length) = (u64::from(count) * each, u64::from(count) * each + 8 + pack::TRAILER as u64);
    let mut trailer = vec![0; pack::TRAILER];
    trailer[4..8].copy_from_slice(&count.to_le_bytes());
    trailer[8..16].copy_from_slice(&footer.to_le_bytes());
    trailer[72..].copy_from_slice(pack::END_MAGIC);
    let mut file = std::fs::File::create_new(&path).unwrap();
    file.write_all(pack::MAGIC).unwrap();
    file.seek(SeekFrom::Start(length - pack::TRAILER as u64)).unwrap();
    file.write_all(&trailer).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let (result, held) = peak(|| pack::read_footer(&file, &path));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(held < 4 << 10, "{held}");
}

#[test]
fn depth_and_width() {
    for deep in ["[", "{\"a\":"] {
        let body = format!("{{\"required\":[],\"optional\":[],\"x\":{}", deep.repeat(100_000));
        assert_eq!(
            Snapshot::parse(&sealed("snapshot", "1", body.as_bytes()), 1, "it").unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert!(Structure::parse(deep.repeat(100_000).as_bytes(), 1).is_err());
    }
    for length in [u64::MAX, 1 << 63] {
        let text = format!(
            r#"{{"files":[{{"path":"a","size":{length},"tensors":[],"extents":[[1,{length}]]}}],"training":[]}}"#
        );
        assert!(Structure::parse(text.as_bytes(), length).is_err());
    }
}

/// A tree whose nodes repeat each other takes few bytes, but would list 2^40 chunks.
#[test]
fn a_tree_that_repeats_itself() {
    let folder = tempfile::tempdir().unwrap();
    let packs = folder.path().join("packs");
    std::fs::create_dir(&packs).unwrap();
    let text = br#"{"files":[],"training":[]}"#.to_vec();
    let (mut raws, mut below) = (vec![text.clone()], ChunkRef { id: ChunkId::of(&text), len: text.len() as u32 });
    for _ in 0..4 {
        let mut node = vec![];
        (0..1024).for_each(|_| below.append_to(&mut node));
        below = ChunkRef { id: ChunkId::of(&node), len: node.len() as u32 };
        raws.push(node);
    }
    let mut bytes = pack::MAGIC.to_vec();
    let mut list = vec![];
    for raw in &raws {
        let len = raw.len() as u32;
        let id = ChunkId::of(raw);
        list.push(Entry {
            id,
            offset: bytes.len() as u64,
            encoded: len,
            raw: len,
            codec: Codec::Raw,
            kind: Kind::Node,
            base: None,
        });
        bytes.extend_from_slice(raw);
    }
    bytes.extend_from_slice(&pack::footer(&list, 0));
    let name = PackName::of(&bytes);
    std::fs::write(packs.join(format!("{}.pack", name.hex())), &bytes).unwrap();
    let mut placement = Placement::default();
    placement.insert(Pack { name, length: bytes.len() as u64, entries: list, salt: 0 });
    let mut body: Body = serde_json::from_slice(&body()).unwrap();
    body.state.structure = vec![ChunkRef { id: ChunkId::of(&text), len: text.len() as u32 }];
    body.state.depth = 4;
    body.state.root = vec![below];
    let placement = Arc::new(placement);
    // The state is long enough for the most chunks of one byte, but may still not list that many.
    for (length, bound) in [(5000, 4 * bytes.len() + (1 << 20)), (1 << 26, 160 << 20)] {
        body.state.length = length;
        let snapshot = Snapshot::parse(&body.seal().unwrap(), 1, "it").unwrap();
        let (result, held) = peak(|| Reader::open(Chunks::new(Arc::clone(&placement), packs.clone()), &snapshot));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(held < bound, "{held} bytes for {}", bytes.len());
    }
    assert!(bytes.len() < MAX_CHUNK);
}

// ---- paths that are not regular files -------------------------------------------------------------------------------

#[cfg(unix)]
#[test]
fn devices_and_pipes_do_not_hang() {
    let root = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(root.path(), "2026-01-01T00:00:00.000Z").unwrap();
    let pipe = root.path().join("snapshots/0000000001.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert_eq!(repository.snapshots().unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::remove_file(&pipe).unwrap();
    let pack = root.path().join("packs").join(format!("{}.pack", "0".repeat(64)));
    for target in ["/dev/zero", "/dev/full", "/"] {
        std::os::unix::fs::symlink(target, &pack).unwrap();
        let report = repository.verify(true, &Task::new(1).unwrap()).unwrap();
        assert_eq!(report.problems.len(), 1, "{target}: {:?}", report.problems);
        std::fs::remove_file(&pack).unwrap();
    }
    let config = root.path().join("config.json");
    std::fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &config).unwrap();
    let (result, held) = peak(|| Repository::open(root.path()));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(held < 64 << 10);
}

/// An old reader says which version or feature it lacks, for every kind of file.
#[test]
fn what_a_newer_writer_writes_is_named() {
    let none = br#"{"required":[],"optional":["sparkle"]}"#;
    let needs = br#"{"required":["delta","sparkle"],"optional":[]}"#;
    for kind in ["config", "snapshot", "alias", "journal", "condemned"] {
        for (bytes, name) in [(sealed(kind, "2", none), "version 2"), (sealed(kind, "1", needs), "sparkle")] {
            let error = envelope::unseal(&bytes, kind, "it").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{kind}");
            assert!(error.message().contains(name), "{error}");
        }
        envelope::unseal(&sealed(kind, "1", none), kind, "it").unwrap();
    }
    let fields = pack::footer(&entries(1), 0).len() - 80;
    for (at, value, name) in [(0, 3, "version 3"), (17, 4, "bit 10")] {
        let mut footer = pack::footer(&entries(1), 0);
        footer[fields + at] = value;
        let footer = resealed(footer);
        let error = pack::parse_footer(&footer, 18 + footer.len() as u64, "it").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains(name), "{error}");
    }
    let mut bytes = placement(1);
    bytes.truncate(bytes.len() - 32);
    bytes[8] = 9;
    let error = Placement::parse(&with_digest(bytes), "it").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("version 9"), "{error}");
}

// ---- inputs that once revealed a fault ------------------------------------------------------------------------------

/// Inputs that once revealed a fault, or that represent a class of inputs. Each must be refused as damaged.
#[test]
fn corpus() {
    let long = "9".repeat(400);
    for version in ["0", "-1", "01", "1.0", "4294967296", "999999999999", long.as_str(), ""] {
        let error = envelope::unseal(&sealed("alias", version, b"{}"), "alias", "it").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{version}");
    }
    for body in
        ["[]", "null", "{}", r#"{"required":{},"optional":[]}"#, r#"{"required":[],"optional":[],"a":"\ud800"}"#]
    {
        let error = envelope::unseal(&sealed("alias", "1", body.as_bytes()), "alias", "it").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{body}");
    }
    let not_text = sealed("alias", "1", b"{\"required\":[],\"optional\":[],\"a\":\"\xff\"}");
    assert_eq!(envelope::unseal(&not_text, "alias", "it").unwrap_err().kind(), ErrorKind::Corrupt);
    for path in ["../a", "/a", "a/../b", "a//b", "c:a", "a\\b", "a\u{0}", "a\n", "", ".", "..", "a/"] {
        let mut wrong = structure();
        wrong.files[0].path = path.into();
        let bytes = serde_json::to_vec(&wrong).unwrap();
        assert_eq!(Structure::parse(&bytes, 72).unwrap_err().kind(), ErrorKind::Corrupt, "{path:?}");
    }
}
