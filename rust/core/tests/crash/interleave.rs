//! Several processes in one repository, in every order that a few switches between them give, and with one of them
//! killed at every point.
//!
//! Each process has its own path to the repository, so that a watcher knows which process makes a call. Only one
//! process runs at a time. The plan of a run says before which calls to switch to another process, or to kill the
//! running one. There are no switches at calls that other processes cannot see: writes to temporary files, and flushes.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lamina_core::internals::{Call, faults::Watch, faults::Watcher, faults::watch};
use lamina_core::{ErrorKind, Keep, Repository, Result};

use crate::disk::{Fate, Tree, plant};
use crate::world::{Model, Op, Promise, World, check, read, scratch, task};
use crate::{A, B, C, soak, world};

/// What a process does.
#[derive(Debug, Clone)]
enum Job {
    Save(Model),
    Prune(usize),
    /// Reads the snapshot of this epoch.
    Read(i64),
    Verify,
    SetAlias(i64),
}

/// What happens before a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Switch to this process.
    Switch(usize),
    /// Kill the running process.
    Kill,
}

/// Events by the number of the call before which they happen, counted over all processes.
type Plan = Vec<(usize, Event)>;

struct Turns {
    turn: usize,
    /// For each call so far, whether it is a step of the protocol.
    calls: Vec<bool>,
    finished: Vec<bool>,
    killed: Vec<bool>,
    plan: Plan,
}

impl Turns {
    fn pass_on(&mut self) {
        if let Some(next) = self.finished.iter().position(|finished| !finished) {
            self.turn = next;
        }
    }
}

struct Scheduler {
    turns: Mutex<Turns>,
    changed: Condvar,
}

impl Scheduler {
    fn wait_for(&self, process: usize) -> std::sync::MutexGuard<'_, Turns> {
        let theirs = |turns: &mut Turns| turns.turn != process;
        let (turns, late) =
            self.changed.wait_timeout_while(self.turns.lock().unwrap(), Duration::from_secs(60), theirs).unwrap();
        assert!(!late.timed_out(), "process {process} waits for ever: one that has no turn holds what another needs");
        turns
    }

    /// A call of a process. If it waits for another process, that one runs.
    fn point(&self, process: usize, step: bool, waits: bool) {
        let mut turns = self.wait_for(process);
        if turns.killed[process] {
            return;
        }
        if waits {
            let others = |turns: &Turns| (0..turns.finished.len()).find(|&p| p != process && !turns.finished[p]);
            if let Some(other) = others(&turns) {
                turns.turn = other;
                drop(turns);
                self.changed.notify_all();
                turns = self.wait_for(process);
            }
        }
        let now = turns.calls.len();
        turns.calls.push(step);
        let event = turns.plan.iter().find(|(at, _)| *at == now).map(|(_, event)| *event);
        match event {
            Some(Event::Kill) => turns.killed[process] = true,
            Some(Event::Switch(to)) if !turns.finished[to] => {
                turns.turn = to;
                drop(turns);
                self.changed.notify_all();
                drop(self.wait_for(process));
            }
            _ => {}
        }
    }

    fn finish(&self, process: usize) {
        let mut turns = self.wait_for(process);
        turns.finished[process] = true;
        turns.pass_on();
        drop(turns);
        self.changed.notify_all();
    }

    fn is_killed(&self, process: usize) -> bool {
        self.turns.lock().unwrap().killed[process]
    }
}

/// Whether a call is a step of the protocol between saves and prunes: it shows or looks for a session, uses the list of
/// condemned packs, or creates, deletes or looks for snapshots or packs.
fn is_step(call: &Call<'_>) -> bool {
    let inside = |path: &Path, folder: &str| path.parent().is_some_and(|parent| parent.ends_with(folder));
    match call {
        Call::List(path) => ["sessions", "packs", "snapshots"].iter().any(|folder| path.ends_with(folder)),
        Call::Open(path) | Call::Remove(path) if path.ends_with("condemned.json") => true,
        Call::Remove(path) => inside(path, "packs") || inside(path, "snapshots"),
        Call::Rename { to, .. } => {
            to.ends_with("condemned.json") || ["sessions", "packs", "snapshots"].iter().any(|f| inside(to, f))
        }
        _ => false,
    }
}

/// The watcher of one process.
struct Process {
    scheduler: Arc<Scheduler>,
    number: usize,
    /// Whether its last call tried to take the prune lock.
    tried: AtomicBool,
}

impl Watcher for Process {
    fn arrive(&self, call: &Call<'_>) {
        let own = matches!(
            call,
            Call::Write { .. } | Call::SetLength { .. } | Call::Sync(_) | Call::SyncDir(_) | Call::Read(_)
        );
        if own {
            return drop(self.scheduler.wait_for(self.number));
        }
        let of_prunes = |path: &Path| path.ends_with("prune.lock");
        let tried = self.tried.swap(matches!(call, Call::Lock(p) if of_prunes(p)), Ordering::Relaxed);
        let again = tried && matches!(call, Call::Create(p) if of_prunes(p));
        self.scheduler.point(self.number, is_step(call), again);
    }

    fn before(&self, _call: &Call<'_>) -> io::Result<()> {
        // A killed process removes nothing. Its locks end with its open files.
        if self.scheduler.is_killed(self.number) { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn after(&self, _call: &Call<'_>) {}

    fn pretends(&self, call: &Call<'_>) -> bool {
        matches!(call, Call::Sync(_) | Call::SyncDir(_))
    }
}

/// What a process reported before it ended.
#[derive(Default)]
struct Reports {
    saved: Vec<(String, u64)>,
    pruned: Vec<u64>,
    aliases: Vec<Option<String>>,
}

fn act(root: &Path, job: &Job, epoch: i64, contents: &HashMap<i64, Vec<u8>>, reports: &Mutex<Reports>) -> Result<()> {
    let repository = Repository::open(root)?;
    let of_epoch = |epoch: i64| {
        let snapshots = repository.snapshots()?;
        Ok(snapshots.into_iter().find(|s| s.body.epoch == Some(epoch)))
    };
    match job {
        Job::Save(model) => {
            let snapshot = model.save(&repository, epoch)?;
            reports.lock().unwrap().saved.push((snapshot.id.clone(), snapshot.number));
        }
        Job::Prune(last) => {
            let keep = Keep { last: Some(*last), ..Keep::default() };
            let doomed = repository.prune(Some(&keep), None, true, &task())?.snapshots;
            reports.lock().unwrap().pruned.extend(doomed);
            let pruned = repository.prune(Some(&keep), None, false, &task())?;
            reports.lock().unwrap().pruned.extend(pruned.snapshots);
        }
        Job::Read(epoch) => {
            let Some(snapshot) = of_epoch(*epoch)? else { return Ok(()) };
            let bytes = read(&repository, &snapshot)?;
            assert_eq!(Some(&bytes), contents.get(epoch), "other bytes than were saved");
        }
        Job::Verify => {
            let report = repository.verify(true, &task())?;
            assert!(report.problems.is_empty(), "{:?}", report.problems);
        }
        Job::SetAlias(epoch) => {
            let Some(snapshot) = of_epoch(*epoch)? else { return Ok(()) };
            reports.lock().unwrap().aliases.push(Some(snapshot.id.clone()));
            repository.set_alias(&snapshot, "x")?;
        }
    }
    Ok(())
}

/// A repository, and what two or three processes do in it at the same time.
struct Scene {
    name: &'static str,
    tree: Tree,
    promise: Promise,
    contents: HashMap<i64, Vec<u8>>,
    jobs: Vec<Job>,
}

impl Scene {
    fn new(name: &'static str, before: &[Op], jobs: Vec<Job>) -> Self {
        let world: World = world(before);
        let tree = world.disk_at(world.changes()).after_crash(&mut Fate::Everything);
        let mut contents = world.contents.clone();
        for (number, job) in jobs.iter().enumerate() {
            if let Job::Save(model) = job {
                contents.insert(100 + number as i64, model.file());
            }
        }
        Self { name, tree, promise: world.promise.clone(), contents, jobs }
    }

    /// Runs the processes as planned, and checks the repository then. Returns, for each call, whether it was a step of
    /// the protocol.
    fn run(&self, plan: &Plan) -> std::result::Result<Vec<bool>, String> {
        let folder = scratch();
        plant(&self.tree, &folder.path().join("r"));
        let nobody = vec![false; self.jobs.len()];
        let turns = Turns { turn: 0, calls: vec![], finished: nobody.clone(), killed: nobody, plan: plan.clone() };
        let scheduler = Arc::new(Scheduler { turns: Mutex::new(turns), changed: Condvar::new() });
        let reports = Mutex::new(Reports::default());
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let start = |(number, job)| {
                let (scheduler, reports, folder) = (Arc::clone(&scheduler), &reports, folder.path());
                scope.spawn(move || {
                    let root = folder.join(format!("process{number}"));
                    std::os::unix::fs::symlink("r", &root).unwrap();
                    let process = Process { scheduler: Arc::clone(&scheduler), number, tried: AtomicBool::new(false) };
                    let _watch: Watch = watch(&root, Arc::new(process));
                    let result = act(&root, job, 100 + number as i64, &self.contents, reports);
                    scheduler.finish(number);
                    result
                })
            };
            let threads: Vec<_> = self.jobs.iter().enumerate().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (number, result) in results.into_iter().enumerate() {
            self.allowed(number, result, scheduler.is_killed(number))?;
        }
        let promise = self.promised(&reports.into_inner().unwrap());
        check(&folder.path().join("r"), &promise, &self.contents)?;
        let calls = scheduler.turns.lock().unwrap().calls.clone();
        Ok(calls)
    }

    fn allowed(&self, number: usize, result: Result<()>, killed: bool) -> std::result::Result<(), String> {
        match (&self.jobs[number], result) {
            _ if killed => Ok(()),
            (_, Ok(())) => Ok(()),
            // A second prune fails with `Busy`. A snapshot may be pruned after its name was read and before its bytes
            // are.
            (Job::Prune(_), Err(e)) if e.kind() == ErrorKind::Busy => Ok(()),
            (Job::Read(_) | Job::SetAlias(_), Err(e)) if e.kind() == ErrorKind::NotFound => Ok(()),
            (job, Err(e)) => Err(format!("{job:?}: {:?} {e}", e.kind())),
        }
    }

    fn promised(&self, reports: &Reports) -> Promise {
        let mut promise = self.promise.clone();
        promise.report(&reports.saved, &reports.pruned);
        if !reports.aliases.is_empty() {
            promise.alias("x", &reports.aliases);
        }
        promise
    }

    /// Every plan with at most so many events, of which at most one kills; of switches between steps alone where
    /// `steps` says so.
    fn every_plan(&self, most: usize, steps: bool, end: Option<Instant>) -> usize {
        let mut runs = 0;
        let mut plans: Vec<Plan> = vec![vec![]];
        while let Some(plan) = plans.pop() {
            let calls = self.run(&plan).unwrap_or_else(|problem| panic!("{}, {plan:?}: {problem}", self.name));
            runs += 1;
            if end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            if plan.len() == most {
                continue;
            }
            let events = (0..self.jobs.len()).map(Event::Switch).chain((!steps).then_some(Event::Kill));
            for event in events.filter(|e| *e != Event::Kill || !plan.iter().any(|(_, e)| *e == Event::Kill)) {
                let first = plan.last().map_or(0, |(at, _)| at + 1);
                let places = (first..calls.len()).filter(|&at| !steps || calls[at]);
                plans.extend(places.map(|at| [plan.as_slice(), &[(at, event)]].concat()));
            }
        }
        runs
    }
}

fn scenes() -> Vec<Scene> {
    use Job::{Prune, Read, Save, SetAlias, Verify};
    let saved = |models: &[Model]| [vec![Op::Create], models.iter().cloned().map(Op::Save).collect()].concat();
    vec![
        // The prune deletes a pack that the save would use.
        Scene::new("save and prune", &saved(&[A, C]), vec![Save(A), Prune(1)]),
        Scene::new("prune and save with repack", &saved(&[A, C]), vec![Prune(1), Save(B)]),
        Scene::new("two saves", &saved(&[A]), vec![Save(C), Save(C)]),
        Scene::new("prune and read", &saved(&[A, C]), vec![Prune(1), Read(0)]),
        Scene::new("prune and verify", &saved(&[A, C]), vec![Prune(1), Verify]),
        Scene::new("save and verify", &saved(&[A, C]), vec![Save(B), Verify]),
        Scene::new("prune and alias", &saved(&[A, C]), vec![Prune(1), SetAlias(0)]),
        Scene::new("two prunes", &saved(&[A, B, C]), vec![Prune(1), Prune(2)]),
        Scene::new("two saves and a prune", &saved(&[A, C]), vec![Save(A), Prune(1), Save(A)]),
        Scene::new("a save and two prunes", &saved(&[A, C]), vec![Prune(1), Save(A), Prune(1)]),
    ]
}

/// One switch or kill at every call; with `make soak`, as many pairs of them as time allows.
#[test]
fn every_order_of_processes() {
    for scene in scenes() {
        let start = Instant::now();
        let end = soak().map(|limit| start + limit / 10);
        let runs = scene.every_plan(if end.is_some() { 2 } else { 1 }, false, end);
        eprintln!("{}: {runs} orders, {:.1} s", scene.name, start.elapsed().as_secs_f64());
    }
}

/// More switches, but only between steps of the protocol: three switches are 29,000 orders. Only they would reveal a
/// save that reads the condemned packs before its session is visible.
#[test]
fn every_order_of_steps() {
    let start = Instant::now();
    let end = soak().map(|limit| start + limit);
    let runs = scenes()[0].every_plan(if end.is_some() { 3 } else { 1 }, true, end);
    eprintln!("save and prune, steps: {runs} orders, {:.1} s", start.elapsed().as_secs_f64());
}
