//! A bounded parallel pipeline: a source makes items one by one, several threads work on them, and a sink takes the
//! results in order.
//!
//! Only the source and the sink decide what is written, so the result does not depend on the number of threads.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

struct Shared<S, R> {
    source: Mutex<(S, usize)>,
    queue: Mutex<Queue<R>>,
    changed: Condvar,
}

struct Queue<R> {
    done: BTreeMap<usize, Result<R>>,
    /// The index that the sink takes next.
    next: usize,
    /// The number of items, after the source has ended.
    total: Option<usize>,
    stopped: bool,
    /// The payload of a panic in a worker.
    panicked: Option<Box<dyn Any + Send>>,
}

/// Locks a mutex, even if a holder panicked: every update is a single step, so the data is consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most threads that `LAMINA_THREADS` can ask for. More do not help.
const MAX_THREADS: usize = 1024;

/// The number of threads for `wanted`; see [`super::Task::new`].
pub(super) fn threads_or_default(wanted: usize) -> Result<usize> {
    if wanted > 0 {
        return Ok(wanted);
    }
    named(std::env::var_os("LAMINA_THREADS").map(|text| text.to_string_lossy().into_owned()))
}

fn named(text: Option<String>) -> Result<usize> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(std::thread::available_parallelism().map_or(1, usize::from).min(8));
    };
    match text.trim().parse() {
        Ok(number) if number > 0 => Ok(MAX_THREADS.min(number)),
        _ => Err(Error::invalid(format!("LAMINA_THREADS must be a whole number of at least 1. Received: {text}"))),
    }
}

/// Runs `work` on the items of `source` in `threads` threads, and passes the results to `sink` in order, on the calling
/// thread. At most `window` results wait. The first error, in order, ends the run. A panic of `source`, `worker` or
/// `work` becomes an error. A panic of `sink` continues in the caller, after the threads have ended.
pub(super) fn run<T, R, W>(
    threads: usize,
    window: usize,
    source: impl FnMut() -> Result<Option<T>> + Send,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, T) -> Result<R> + Sync,
    mut sink: impl FnMut(R) -> Result<()>,
) -> Result<()>
where
    R: Send,
{
    let queue = Queue { done: BTreeMap::new(), next: 0, total: None, stopped: false, panicked: None };
    let shared = Shared { source: Mutex::new((source, 0)), queue: Mutex::new(queue), changed: Condvar::new() };
    std::thread::scope(|scope| {
        let each = || {
            let all = || {
                let mut state = worker();
                while step(&shared, window.max(1), |item| work(&mut state, item)) {}
            };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(all)) {
                lock(&shared.queue).panicked.get_or_insert(payload);
                shared.stop();
            }
        };
        for started in 0..threads.max(1) {
            match std::thread::Builder::new().name("lamina-work".into()).spawn_scoped(scope, each) {
                Ok(_) => {}
                // One thread is enough.
                Err(_) if started > 0 => break,
                Err(e) => return Err(Error::no_thread(e)),
            }
        }
        let _stop = StopAtEnd(&shared);
        drain(&shared, &mut sink)
    })
}

impl<S, R> Shared<S, R> {
    /// Stops the workers.
    fn stop(&self) {
        lock(&self.queue).stopped = true;
        self.changed.notify_all();
    }
}

/// Stops the workers when the sink has ended, even by a panic: the scope waits for them.
struct StopAtEnd<'a, S, R>(&'a Shared<S, R>);

impl<S, R> Drop for StopAtEnd<'_, S, R> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Takes one item from the source to the queue. `false` if there is nothing more to do.
fn step<S, T, R>(shared: &Shared<S, R>, window: usize, work: impl FnOnce(T) -> Result<R>) -> bool
where
    S: FnMut() -> Result<Option<T>>,
{
    let (index, item) = {
        let mut source = lock(&shared.source);
        if lock(&shared.queue).total.is_some() {
            return false;
        }
        let item = (source.0)();
        let index = source.1;
        source.1 += 1;
        if !matches!(item, Ok(Some(_))) {
            // An error counts as the last item.
            lock(&shared.queue).total = Some(index + usize::from(item.is_err()));
        }
        (index, item)
    };
    let result = match item {
        Ok(Some(item)) => work(item),
        Ok(None) => {
            shared.changed.notify_all();
            return false;
        }
        Err(error) => Err(error),
    };
    let mut queue = lock(&shared.queue);
    while index >= queue.next + window && !queue.stopped {
        queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    queue.done.insert(index, result);
    shared.changed.notify_all();
    !queue.stopped
}

fn drain<S, R>(shared: &Shared<S, R>, sink: &mut impl FnMut(R) -> Result<()>) -> Result<()> {
    let mut queue = lock(&shared.queue);
    loop {
        let next = queue.next;
        if let Some(result) = queue.done.remove(&next) {
            queue.next += 1;
            shared.changed.notify_all();
            drop(queue);
            sink(result?)?;
            queue = lock(&shared.queue);
        } else if queue.total == Some(next) {
            return Ok(());
        } else if let Some(payload) = queue.panicked.take() {
            return Err(Error::panicked(&*payload));
        } else {
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squares(threads: usize, n: u64, bad: Option<u64>, source_bad: Option<u64>) -> Result<Vec<u64>> {
        let mut out = vec![];
        let mut i = 0;
        let source = || {
            i += 1;
            if source_bad == Some(i) {
                return Err(Error::invalid("source"));
            }
            Ok((i <= n).then_some(i))
        };
        let work = |_: &mut (), i: u64| if bad == Some(i) { Err(Error::invalid("work")) } else { Ok(i * i) };
        run(
            threads,
            3,
            source,
            || (),
            work,
            |r| {
                out.push(r);
                Ok(())
            },
        )?;
        Ok(out)
    }

    #[test]
    fn in_order_with_any_number_of_threads() {
        for threads in [1, 2, 7] {
            for n in [0, 1, 2, 100] {
                let want: Vec<_> = (1..=n).map(|i| i * i).collect();
                assert_eq!(squares(threads, n, None, None).unwrap(), want);
            }
            assert_eq!(squares(threads, 100, Some(50), None).unwrap_err().message(), "work");
            assert_eq!(squares(threads, 100, None, Some(50)).unwrap_err().message(), "source");
        }
    }

    #[test]
    fn threads_are_named_or_refused() {
        assert_eq!(named(Some("3".to_owned())).unwrap(), 3);
        assert_eq!(named(Some("99999999".to_owned())).unwrap(), MAX_THREADS);
        assert_eq!(named(Some(String::new())).unwrap(), named(None).unwrap());
        assert_eq!(threads_or_default(7).unwrap(), 7);
        for text in ["0", "-1", "many", "2.5", "99999999999999999999999"] {
            assert!(named(Some(text.to_owned())).unwrap_err().message().ends_with(text));
        }
    }

    #[test]
    fn a_failing_sink_ends_it() {
        let mut i = 0u64;
        let source = || {
            i += 1;
            Ok(Some(i))
        };
        let error = run(3, 4, source, || (), |(), i| Ok(i), |i| if i == 9 { Err(Error::cancelled()) } else { Ok(()) });
        assert!(error.is_err());
    }

    /// Runs a thousand items in three threads; one of the four steps panics at the tenth.
    fn panicking(place: &str) -> Result<()> {
        let at = |step: &str, i: u64| assert!(place != step || i != 10, "in the {step}");
        let mut i = 0u64;
        let source = || {
            i += 1;
            at("source", i);
            Ok((i < 1000).then_some(i))
        };
        let work = |(): &mut (), i| {
            at("work", i);
            Ok(i)
        };
        let sink = |i| {
            at("sink", i);
            Ok(())
        };
        run(3, 4, source, || at("worker", 10), work, sink)
    }

    #[test]
    fn a_panic_in_a_worker_is_an_error() {
        for place in ["source", "worker", "work"] {
            let error = panicking(place).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Internal, "{place}");
            assert!(error.message().contains(&format!("in the {place}")), "{}", error.message());
        }
    }

    #[test]
    fn a_panic_in_the_sink_goes_on_and_does_not_hang() {
        let payload = catch_unwind(|| panicking("sink")).unwrap_err();
        assert_eq!(payload.downcast_ref::<String>().unwrap(), "in the sink");
    }
}
