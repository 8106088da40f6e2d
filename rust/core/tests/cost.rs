//! What a save and a restore cost in things that can be counted: bytes allocated, read and written, flushes, calls. No
//! clock, so a doubling is seen on any machine, however busy.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and shows what it found"
)]

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lamina_core::internals::{Call, faults::Watcher, faults::watch};
use lamina_core::{Body, CodecChoice, FileSpec, Layout, MemorySource, Repository, Snapshot, Task, TensorSpec, Want};

fn task(threads: usize) -> Task<'static> {
    Task::new(threads).unwrap()
}

/// Bytes ever allocated, bytes held, and the most that were held. What zstd allocates for its contexts is not among
/// them.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn taken(bytes: usize) {
    ALLOCATED.fetch_add(bytes, Relaxed);
    PEAK.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: all is done by the system's allocator, which gets what it would get without the counting.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        taken(memory.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn alloc_zeroed(&self, memory: Memory) -> *mut u8 {
        taken(memory.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(memory) }
    }

    unsafe fn realloc(&self, place: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        taken(size);
        HELD.fetch_sub(memory.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(place, memory, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, memory: Memory) {
        HELD.fetch_sub(memory.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, memory) }
    }
}

/// Counts the calls to the file system.
#[derive(Default)]
struct Counter {
    calls: AtomicUsize,
    flushes: AtomicUsize,
    read: AtomicUsize,
    written: AtomicUsize,
}

impl Watcher for Counter {
    fn before(&self, _call: &Call<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, call: &Call<'_>) {
        self.calls.fetch_add(1, Relaxed);
        match call {
            Call::Sync(_) | Call::SyncDir(_) => self.flushes.fetch_add(1, Relaxed),
            Call::Write { bytes, .. } => self.written.fetch_add(bytes.len(), Relaxed),
            _ => 0,
        };
    }

    fn has_read(&self, bytes: usize) {
        self.read.fetch_add(bytes, Relaxed);
    }

    fn pretends(&self, call: &Call<'_>) -> bool {
        matches!(call, Call::Sync(_) | Call::SyncDir(_))
    }
}

/// Kilobytes, except for flushes and calls.
#[derive(Debug, Clone, Copy)]
struct Cost {
    allocated: usize,
    peak: usize,
    read: usize,
    written: usize,
    flushes: usize,
    calls: usize,
}

impl Cost {
    /// Passes where every number is at most one and a half times what was found when this was written, and so that it
    /// cannot creep up again, not below a half. The peak depends on how threads take turns; what was found is the most
    /// there can be.
    fn check(self, what: &str, found_then: Self) {
        println!("{what}: {self:?}");
        let numbers = |c: Self| [c.allocated, c.peak, c.read, c.written, c.flushes, c.calls];
        let names = ["allocated", "peak", "read", "written", "flushes", "calls"];
        for ((name, now), then) in names.iter().zip(numbers(self)).zip(numbers(found_then)) {
            let most = then + then / 2;
            assert!(now <= most, "{what}: {name} was {then}, now it is {now}, more than {most}. All: {self:?}");
            assert!(
                2 * now >= then || *name == "peak",
                "{what}: {name} was {then}, now it is {now}. Write that down, so that it stays"
            );
        }
    }
}

/// 64 tensors of 1 MB and 1,000 of 1 kB.
struct Model {
    tensors: Vec<Vec<u8>>,
    layout: Layout,
}

impl Model {
    fn new(seed: u64) -> Self {
        let sizes = std::iter::repeat_n(1 << 20, 64).chain(std::iter::repeat_n(1 << 10, 1000));
        let tensors: Vec<_> = sizes.enumerate().map(|(i, size)| weights(seed << 32 | i as u64, size)).collect();
        let mut at = 0;
        let spec = |(i, bytes): (usize, &Vec<u8>)| {
            let offset = at;
            at += bytes.len() as u64;
            let (dtype, shape, role) = ("<f4".into(), vec![bytes.len() as u64 / 4], "weights".into());
            TensorSpec { name: format!("l{i}/w"), dtype, shape, role, offset }
        };
        let specs = tensors.iter().enumerate().map(spec).collect();
        let layout = Layout::new(&[FileSpec { path: "m.h5".into(), size: at, tensors: specs }], &[]).unwrap();
        Self { tensors, layout }
    }

    fn save(&self, repository: &Repository, codec: CodecChoice) -> Arc<Snapshot> {
        let tensors = vec![self.tensors.iter().map(Vec::as_slice).collect(), vec![]];
        let source = MemorySource { tensors, literals: vec![&[]] };
        let body: Body = serde_json::from_str(r#"{"created_at":"","series":"s","kind":"weights"}"#).unwrap();
        repository.save(body, &self.layout, &source, codec, &task(2)).unwrap()
    }
}

fn restore(repository: &Repository, snapshot: &Snapshot, arrays: &mut [Vec<u8>]) {
    let reader = repository.reader(snapshot).unwrap();
    let tensors = &reader.structure.files[0].tensors;
    let wants = tensors.iter().zip(arrays).map(|(entry, to)| Want { offset: entry.offset, to }).collect();
    reader.read(wants, &task(2)).unwrap();
}

/// Like weights: the byte with most of the exponent hardly changes, the others are noise.
fn weights(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..size / 8).flat_map(|_| (next() & 0x01ff_ffff_01ff_ffff | 0x3c00_0000_3c00_0000).to_le_bytes()).collect()
}

fn cost<T>(counter: &Counter, action: impl FnOnce() -> T) -> (T, Cost) {
    let sums =
        || [&ALLOCATED, &counter.read, &counter.written, &counter.flushes, &counter.calls].map(|n| n.load(Relaxed));
    let held = HELD.load(Relaxed);
    PEAK.store(held, Relaxed);
    let before = sums();
    let result = action();
    let peak = PEAK.load(Relaxed) - held;
    let [allocated, read, written, flushes, calls] = std::array::from_fn(|i| sums()[i] - before[i]);
    let kilobytes = |bytes| bytes / 1000;
    let [allocated, peak, read, written] = [allocated, peak, read, written].map(kilobytes);
    (result, Cost { allocated, peak, read, written, flushes, calls })
}

#[test]
fn nothing_costs_twice_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let counter = Arc::new(Counter::default());
    let _watch = watch(folder.path(), Arc::clone(&counter) as Arc<dyn Watcher>);
    let create = |name| Repository::open_or_create(&folder.path().join(name), "").unwrap();
    let (repository, raw) = (create("auto"), create("raw"));
    let (old, new) = (Model::new(1), Model::new(2));
    let mut arrays: Vec<Vec<u8>> = new.tensors.iter().map(|t| vec![0; t.len()]).collect();

    let (_, first) = cost(&counter, || old.save(&repository, CodecChoice::Auto));
    let (_, unchanged) = cost(&counter, || old.save(&repository, CodecChoice::Auto));
    let (snapshot, changed) = cost(&counter, || new.save(&repository, CodecChoice::Auto));
    let ((), restored) = cost(&counter, || restore(&repository, &snapshot, &mut arrays));
    assert!(arrays == new.tensors);
    let (snapshot, stored_raw) = cost(&counter, || old.save(&raw, CodecChoice::Raw));
    let ((), restored_raw) = cost(&counter, || restore(&raw, &snapshot, &mut arrays));
    assert!(arrays == old.tensors);

    let cost = |allocated, peak, read, written, flushes, calls| Cost { allocated, peak, read, written, flushes, calls };
    // Encoded bytes are allocated once, raw ones not at all.
    first.check("a first save", cost(67_500, 18_700, 0, 53_411, 11, 109));
    unchanged.check("nothing changed", cost(1_700, 404, 34, 1, 3, 33));
    // Only a glimpse of the version before is read, to decide whether a delta is worth it.
    changed.check("all changed", cost(71_400, 18_700, 597, 53_411, 10, 5_242));
    // Every stored byte is read once.
    restored.check("a restore", cost(6_100, 4_340, 53_362, 0, 0, 1_089));
    stored_raw.check("a first save without a codec", cost(80_200, 16_900, 0, 68_265, 14, 135));
    // Bytes are read directly into their destination: a buffer for a chunk would show in the peak.
    restored_raw.check("a restore without a codec", cost(2_300, 662, 68_216, 0, 0, 1_093));
}
