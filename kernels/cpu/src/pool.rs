//! Compute threads that step together.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread looks for work before it sleeps. Longer than the gap between two operations of a step (about 1 µs,
/// one small serial pass at most 20 µs), shorter than anybody would notice on a busy machine.
const SPIN: Duration = Duration::from_micros(50);
/// Looks between two readings of the clock.
const LOOKS_PER_CLOCK: u32 = 64;

/// A job: called once on every thread with (thread index, thread count).
type Job<'a> = &'a (dyn Fn(usize, usize) + Sync + 'a);

/// One pool per backend. The caller of [`Pool::run`] is thread 0, so a pool of one has no threads of its own.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a run: two callers take turns.
    turn: Mutex<()>,
}

struct Shared {
    /// Counts runs; a change is the signal to start. Written under `asleep`.
    epoch: AtomicU32,
    /// Workers that have not finished the current run.
    working: AtomicUsize,
    job: Mutex<JobSlot>,
    /// How many workers sleep, or are about to.
    asleep: Mutex<usize>,
    wake: Condvar,
    /// The caller sleeps here when a worker was taken off its core for long.
    finished: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

enum JobSlot {
    Idle,
    Run(JobPointer),
    Stop,
}

/// A job with its lifetime forgotten.
#[derive(Clone, Copy)]
struct JobPointer(*const (dyn Fn(usize, usize) + Sync + 'static));

// SAFETY: it points to a `Sync` closure that outlives its use: `run` returns only when every worker is done with it.
unsafe impl Send for JobPointer {}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            working: AtomicUsize::new(0),
            job: Mutex::new(JobSlot::Idle),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
            finished: Condvar::new(),
            panic: Mutex::new(None),
        });
        let count = threads.max(1);
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("compute-{index}"));
            builder
                .spawn(move || shared.work(index, count))
                .expect("the system starts a handful of threads")
        };
        let workers = (1..count).map(spawn).collect();
        Self {
            shared,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Threads that take part in a run.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(thread index, thread count)` on every thread at once and returns when all are done.
    ///
    /// # Panics
    /// With the panic of any of the calls, after all are done.
    pub(crate) fn run(&self, job: Job<'_>) {
        let turn = lock(&self.turn);
        if self.workers.is_empty() {
            drop(turn);
            return job(0, 1);
        }
        self.shared.start(job, self.workers.len());
        let own = catch_unwind(AssertUnwindSafe(|| job(0, self.workers.len() + 1)));
        self.shared.wait();
        let panicked = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(panic) = own.err().or(panicked) {
            resume_unwind(panic);
        }
    }

    /// Deals `0..count` out to the threads in ascending chunks of `chunk`, first come first served.
    pub(crate) fn deal(
        &self,
        count: usize,
        chunk: usize,
        job: &(dyn Fn(usize, std::ops::Range<usize>) + Sync),
    ) {
        if count <= chunk || self.workers.is_empty() {
            if count > 0 {
                job(0, 0..count);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|thread, _| {
            loop {
                let first = next.fetch_add(chunk, Ordering::Relaxed);
                if first >= count {
                    return;
                }
                job(thread, first..(first + chunk).min(count));
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        *lock(&self.shared.job) = JobSlot::Stop;
        self.shared.signal();
        for worker in self.workers.drain(..) {
            // Workers catch the panics of their jobs, so they end in order.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn start(&self, job: Job<'_>, workers: usize) {
        let pointer: *const (dyn Fn(usize, usize) + Sync + '_) = job;
        // SAFETY: only the lifetime changes; `Pool::run` waits until no worker uses the pointer any more.
        let pointer: *const (dyn Fn(usize, usize) + Sync + 'static) = unsafe { std::mem::transmute(pointer) };
        *lock(&self.job) = JobSlot::Run(JobPointer(pointer));
        self.working.store(workers, Ordering::Relaxed);
        self.signal();
    }

    /// Begins a new epoch and wakes who sleeps.
    fn signal(&self) {
        // Under the lock, so that a worker that decides to sleep has either seen the new epoch or is counted.
        let asleep = lock(&self.asleep);
        self.epoch.fetch_add(1, Ordering::Release);
        if *asleep > 0 {
            self.wake.notify_all();
        }
    }

    /// Waits until every worker has finished the run.
    fn wait(&self) {
        if spin_until(|| self.working.load(Ordering::Acquire) == 0) {
            return;
        }
        let mut asleep = lock(&self.asleep);
        while self.working.load(Ordering::Acquire) != 0 {
            asleep = self.finished.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The life of a worker.
    fn work(&self, index: usize, count: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            let pointer = match &*lock(&self.job) {
                JobSlot::Run(pointer) => *pointer,
                JobSlot::Idle => continue,
                JobSlot::Stop => return,
            };
            // SAFETY: `Pool::run` keeps the closure alive until `working` is zero, which is after this call.
            let job = unsafe { &*pointer.0 };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index, count))) {
                *lock(&self.panic) = Some(panic);
            }
            if self.working.fetch_sub(1, Ordering::AcqRel) == 1 {
                // The lock orders this with a caller that is about to sleep.
                let asleep = lock(&self.asleep);
                self.finished.notify_all();
                drop(asleep);
            }
        }
    }

    /// Waits for an epoch other than `seen`: spins a little, then sleeps.
    fn next_epoch(&self, seen: u32) -> u32 {
        spin_until(|| self.epoch.load(Ordering::Acquire) != seen);
        let mut epoch = self.epoch.load(Ordering::Acquire);
        if epoch == seen {
            let mut asleep = lock(&self.asleep);
            *asleep += 1;
            epoch = self.epoch.load(Ordering::Acquire);
            while epoch == seen {
                asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
                epoch = self.epoch.load(Ordering::Acquire);
            }
            *asleep -= 1;
        }
        epoch
    }
}

/// Looks until `ready` or until [`SPIN`] is over; says whether it became ready.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let mut begun: Option<Instant> = None;
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        match begun {
            None => begun = Some(Instant::now()),
            Some(begun) if begun.elapsed() > SPIN => return false,
            Some(_) => {}
        }
    }
}

/// Locks; what the mutexes here guard stays valid whatever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_every_job_once() {
        let pool = Pool::new(3);
        for round in 0..2_000 {
            let calls: [AtomicUsize; 3] = Default::default();
            pool.run(&|index, count| {
                assert_eq!(count, 3);
                calls[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1),
                "round {round}"
            );
        }
    }

    #[test]
    fn dealt_items_are_each_done_once() {
        let pool = Pool::new(2);
        for count in [0, 1, 7, 100] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.deal(count, 3, &|_, items| {
                for item in items {
                    done[item].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_in_any_thread_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in 0..2 {
            let run = || pool.run(&|index, _| assert_ne!(index, bad, "meant to fail"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        }
        let calls = AtomicUsize::new(0);
        pool.run(&|_, _| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn callers_on_two_threads_take_turns() {
        let pool = Pool::new(2);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        pool.run(&|_, _| {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 2, "two runs at once");
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            // Longer than a worker spins.
            let begun = Instant::now();
            while begun.elapsed() < 4 * SPIN {
                std::hint::spin_loop();
            }
            pool.run(&|_, _| {});
        }
    }
}
