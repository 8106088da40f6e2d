//! Whatever fails, nothing is lost that was reported as saved (docs/reliability.md). At every call to the file system
//! the machine may stop, the process may be killed, or the operating system may report an error.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "the number of cases is a result")]

mod chance;
mod disk;
mod files;
#[cfg(unix)]
mod interleave;
mod poor;
mod repair;
mod watch;
mod world;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use chance::Chance;
use disk::{Fate, Tree};
use lamina_core::ErrorKind;
use lamina_core::internals::session::Session;
use watch::Refusal;
use world::{Model, Op, TENSORS, World};

/// How long the random tests run. `make soak` sets it.
fn soak() -> Option<Duration> {
    let seconds = std::env::var("LAMINA_SOAK_SECONDS").ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn first_seed() -> u64 {
    std::env::var("LAMINA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// Counts cases; each is a different state of the disk.
#[derive(Default)]
struct Cases {
    seen: HashSet<u64>,
    points: usize,
    cases: usize,
}

impl Cases {
    /// Checks a world after a crash at a point, unless the same state was checked for the same promise.
    fn crash(&mut self, world: &World, changes: usize, mut fate: Fate, name: &str) {
        let tree = world.disk_at(changes).after_crash(&mut fate);
        if self.seen.insert(digest(&tree, &format!("{:?}", world.promise_at(changes)))) {
            self.cases += 1;
            if let Err(problem) = world.check_crash(&tree, changes) {
                let last = world.log();
                let last: Vec<_> = last[..changes].iter().rev().take(4).map(|c| format!("{c:.120?}")).collect();
                panic!("{name}, crash after {changes} changes (last: {last:#?}): {problem}\n{:#?}", names(&tree));
            }
        }
    }

    /// Every kind of loss at one point, and some random ones.
    fn point(&mut self, world: &World, changes: usize, random: u64, name: &str) {
        self.points += 1;
        for fate in [Fate::Nothing, Fate::Everything, Fate::NamesOnly, Fate::BytesOnly] {
            self.crash(world, changes, fate, name);
        }
        let moments = world.disk_at(changes).clock;
        for seed in 0..random {
            let mut chance = Chance::new(seed * 1000 + changes as u64);
            self.crash(world, changes, Fate::Random(Chance::new(chance.next())), name);
            let moment = chance.below(moments as usize + 1) as u64;
            self.crash(world, changes, Fate::Ordered(moment, chance), name);
        }
    }

    fn tell(&self, what: &str, start: Instant) {
        eprintln!("{what}: {} points, {} cases, {:.1} s", self.points, self.cases, start.elapsed().as_secs_f64());
    }
}

fn digest(tree: &Tree, promise: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tree, promise).hash(&mut hasher);
    hasher.finish()
}

fn names(tree: &Tree) -> Vec<String> {
    tree.iter().map(|(path, bytes)| format!("{} {:?}", path.display(), bytes.as_ref().map(Vec::len))).collect()
}

fn world(ops: &[Op]) -> World {
    let mut world = World::new();
    ops.iter().for_each(|op| world.run(op).unwrap());
    world
}

const A: Model = Model([1, 1, 1, 1, 1]);
/// It uses less than half of A's pack, so a save of it stores the rest again.
const B: Model = Model([1, 1, 2, 2, 2]);
const C: Model = Model([1, 3, 3, 3, 3]);

/// An operation on a repository, and the operations before it.
fn scenarios() -> Vec<(&'static str, Vec<Op>, Op)> {
    use Op::{Create, Import, Prune, RemoveAlias, Save, SetAlias, Verify};
    let saved = |models: &[Model]| [vec![Create], models.iter().cloned().map(Save).collect()].concat();
    let tagged = [saved(&[A]), vec![SetAlias("x"), Save(B)]].concat();
    vec![
        ("create", vec![], Create),
        ("first save", saved(&[]), Save(A)),
        ("save with repack", saved(&[A]), Save(B)),
        ("save of the same", saved(&[A, B]), Save(A)),
        ("save after prune", [saved(&[A, B]), vec![Prune(1)]].concat(), Save(A)),
        ("first alias", saved(&[A]), SetAlias("x")),
        ("alias move", tagged.clone(), SetAlias("x")),
        ("alias delete", tagged.clone(), RemoveAlias("x")),
        ("prune", saved(&[A, B, C]), Prune(1)),
        ("prune that keeps", [tagged, vec![Save(C)]].concat(), Prune(1)),
        ("prune of nothing", saved(&[A, B]), Prune(9)),
        ("verify", saved(&[A, B]), Verify),
        ("import", saved(&[A]), Import(B)),
        ("import into a new repository", saved(&[]), Import(C)),
    ]
}

#[test]
fn every_point_of_every_operation() {
    let start = Instant::now();
    let mut cases = Cases::default();
    for (name, before, op) in scenarios() {
        let mut world = world(&before).settled();
        world.run(&op).unwrap();
        for changes in 0..=world.changes() {
            cases.point(&world, changes, 6, name);
        }
    }
    cases.tell("crash at every point of every operation", start);
}

/// A killed process leaves changes that are visible but not flushed. The next process must not rely on them.
#[test]
fn killed_at_every_point_then_another_operation_then_a_crash() {
    use Op::{Prune, RemoveAlias, Save, SetAlias};
    let start = Instant::now();
    let mut cases = Cases::default();
    for (name, before, op) in scenarios() {
        let mut first = world(&before).settled();
        first.run(&op).unwrap();
        for killed in 0..=first.changes() {
            for next in [Save(B), Save(C), Prune(1), SetAlias("x"), RemoveAlias("x")] {
                let mut second = first.killed_at(killed);
                second.run(&Op::Create).unwrap();
                second.run(&next).unwrap();
                let name = format!("{name}, killed after {killed} changes, then {next:?}");
                for fate in [Fate::Nothing, Fate::NamesOnly, Fate::BytesOnly] {
                    cases.crash(&second, second.changes(), fate, &name);
                }
                let mut chance = Chance::new(killed as u64);
                cases.crash(&second, second.changes(), Fate::Random(Chance::new(chance.next())), &name);
                let changes = chance.below(second.changes());
                cases.crash(&second, changes, Fate::Random(chance), &name);
                cases.points += 1;
            }
        }
    }
    cases.tell("killed at every point, another operation, crash", start);
}

const REFUSED: [(i32, &str); 5] = [
    (libc::ENOSPC, "ENOSPC"),
    (libc::EIO, "EIO"),
    (libc::EROFS, "EROFS"),
    (libc::EMFILE, "EMFILE"),
    (libc::EINTR, "EINTR"),
];

/// Every call fails once, or from then on. What was promised holds, before and after a crash.
#[test]
fn every_call_refused() {
    let start = Instant::now();
    let mut cases = Cases::default();
    for (name, before, op) in scenarios() {
        let base = world(&before).settled();
        let calls = {
            let mut world = base.copy(None);
            world.run(&op).unwrap();
            world.calls()
        };
        for at in 0..calls {
            cases.points += 1;
            for (errno, word) in REFUSED {
                for lasting in [false, true] {
                    if lasting && errno == libc::EINTR {
                        continue;
                    }
                    let name = format!("{name}, call {at} gives {word}, lasting: {lasting}");
                    let mut world = base.copy(Some(Refusal { at, errno, lasting }));
                    match world.run(&op) {
                        Ok(()) => {}
                        Err(e) if errno == libc::EINTR => panic!("{name}: {e}"),
                        Err(e) => assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::Unsupported), "{name}: {e}"),
                    }
                    for fate in [Fate::Everything, Fate::Nothing, Fate::Random(Chance::new(at as u64))] {
                        cases.crash(&world, world.changes(), fate, &name);
                    }
                }
            }
        }
    }
    cases.tell("every call refused", start);
}

/// Random operations; now and then the process is killed.
fn mix(seed: u64) -> World {
    let mut chance = Chance::new(seed);
    let mut world = World::new();
    world.run(&Op::Create).unwrap();
    for _ in 0..2 + chance.below(9) {
        let start = world.changes();
        let alias = ["x", "y"][chance.below(2)];
        let mut model = || Model([(); TENSORS].map(|()| chance.below(4) as u64));
        let (saved, imported) = (model(), model());
        let op = match chance.below(10) {
            0..=3 => Op::Save(saved),
            9 => Op::Import(imported),
            4 => Op::SetAlias(alias),
            5 => Op::RemoveAlias(alias),
            6 | 7 => Op::Prune(1 + chance.below(3)),
            _ => Op::Verify,
        };
        world.run(&op).unwrap();
        if chance.one_in(3) {
            world = world.killed_at(start + chance.below(world.changes() - start + 1));
            world.run(&Op::Create).unwrap();
        }
    }
    world
}

#[test]
fn any_mix_of_operations() {
    let start = Instant::now();
    let mut cases = Cases::default();
    let mut seed = first_seed();
    while soak().map_or(cases.cases < 7600, |limit| start.elapsed() < limit) {
        let world = mix(seed);
        let mut chance = Chance::new(seed);
        for _ in 0..12 {
            let changes = chance.below(world.changes() + 1);
            let moment = chance.below(world.disk_at(changes).clock as usize + 1) as u64;
            let dice = Chance::new(chance.next());
            let fate = match chance.below(8) {
                0 => Fate::Nothing,
                1 => Fate::NamesOnly,
                2 => Fate::Everything,
                3 | 4 => Fate::Ordered(moment, dice),
                _ => Fate::Random(dice),
            };
            cases.crash(&world, changes, fate, &format!("mix, LAMINA_SEED={seed}"));
            cases.points += 1;
        }
        seed += 1;
    }
    cases.tell("crash in a mix of operations", start);
}

/// A crash while another save is running: the prune has condemned packs and must not delete them.
#[test]
fn prune_beside_a_save_under_way() {
    let start = Instant::now();
    let mut cases = Cases::default();
    let base = world(&[Op::Create, Op::Save(A), Op::Save(C)]).settled();
    let under_way = Session::begin(base.root()).unwrap();
    let mut world = base;
    world.run(&Op::Prune(1)).unwrap();
    world.run(&Op::Save(A)).unwrap();
    drop(under_way);
    world.run(&Op::Prune(1)).unwrap();
    for changes in 0..=world.changes() {
        cases.point(&world, changes, 6, "prune beside a save");
    }
    cases.tell("prune beside a save under way", start);
}
