//! Tasks with names, stopped stage by stage: stop taking in, finish what has begun, flush what must not be lost.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// When a task is asked to stop. A stage is asked only after every task of the stage before has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Takes in new work: listeners, consumers.
    Intake,
    /// Finishes what has begun: engine loops, streams.
    Work,
    /// Carries out what must not be lost: usage, spools.
    Flush,
    /// Stores what others carried out, and so ends after them all: the ledger.
    Store,
}

const STAGES: [Stage; 4] = [Stage::Intake, Stage::Work, Stage::Flush, Stage::Store];

/// Tasks that had not ended when the limit was up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("still running after {limit_ms} ms: {}", names.join(", "))]
pub struct StillRunning {
    /// Their names.
    pub names: Vec<String>,
    /// The limit.
    pub limit_ms: u128,
}

/// All tasks of one process. Cheap to clone; all clones are the same tasks.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Handle,
    stages: [(CancellationToken, TaskTracker); STAGES.len()],
    failed: CancellationToken,
    /// Tasks that have not ended; threads have no handle.
    running: Mutex<BTreeMap<u64, (&'static str, Option<AbortHandle>)>>,
    next: std::sync::atomic::AtomicU64,
}

impl Tasks {
    /// No tasks yet, to run on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        let stages = STAGES.map(|_| (CancellationToken::new(), TaskTracker::new()));
        let inner = Inner {
            runtime: Handle::current(),
            stages,
            failed: CancellationToken::new(),
            running: Mutex::default(),
            next: std::sync::atomic::AtomicU64::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Cancelled when tasks of `stage` shall stop.
    #[must_use]
    pub fn stopping(&self, stage: Stage) -> CancellationToken {
        self.inner.stages[stage as usize].0.clone()
    }

    /// Cancelled when a task panicked, or by one that cannot go on: the process cannot keep its promises and should leave.
    #[must_use]
    pub fn failed(&self) -> CancellationToken {
        self.inner.failed.clone()
    }

    /// Starts a task. It must end by itself once [`Tasks::stopping`] of its stage is cancelled.
    pub fn spawn<F>(&self, stage: Stage, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let watch = self.watch(name);
        let id = watch.id;
        let task = async move {
            let _watch = watch;
            future.await;
        };
        let handle = self.inner.stages[stage as usize]
            .1
            .spawn_on(task, &self.inner.runtime);
        if let Some((_, abort)) = self.inner.running().get_mut(&id) {
            *abort = Some(handle.abort_handle());
        }
    }

    /// Starts an operating-system thread that counts as a task: for loops that compute.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn_thread<F>(&self, stage: Stage, name: &'static str, body: F) -> std::io::Result<()>
    where
        F: FnOnce() + Send + 'static,
    {
        let (watch, token) = (self.watch(name), self.inner.stages[stage as usize].1.token());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _token = token;
            let watch = watch;
            if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
                watch.report_panic();
            }
        })?;
        Ok(())
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        let mut running: Vec<_> = self.inner.running().values().map(|(name, _)| *name).collect();
        running.sort_unstable();
        running
    }

    /// Stops everything, stage by stage, in `limit` altogether.
    ///
    /// # Errors
    /// Names the tasks that did not end in time. Later stages are asked all the same.
    pub async fn stop(&self, limit: Duration) -> Result<(), StillRunning> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut late = false;
        for (stopping, tracker) in &self.inner.stages {
            stopping.cancel();
            tracker.close();
            late |= tokio::time::timeout_at(deadline, tracker.wait()).await.is_err();
        }
        if !late {
            return Ok(());
        }
        let names = self.running().into_iter().map(str::to_owned).collect();
        Err(StillRunning {
            names,
            limit_ms: limit.as_millis(),
        })
    }

    /// Drops every task where it waits, as the sudden end of the process would. Threads go on. For tests of what others
    /// make of it.
    pub fn kill(&self) {
        let running: Vec<_> = self.inner.running().values().cloned().collect();
        for abort in running.into_iter().filter_map(|(_, abort)| abort) {
            abort.abort();
        }
    }

    fn watch(&self, name: &'static str) -> Watch {
        let id = self.inner.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.running().insert(id, (name, None));
        Watch {
            inner: Arc::clone(&self.inner),
            id,
            name,
        }
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, (&'static str, Option<AbortHandle>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

/// Lives as long as its task does, and sees whether the task ended by a panic.
struct Watch {
    inner: Arc<Inner>,
    id: u64,
    name: &'static str,
}

impl Watch {
    fn report_panic(&self) {
        tracing::error!(task = self.name, "task panicked; the process will leave");
        self.inner.failed.cancel();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report_panic();
        }
        self.inner.running().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_stops_only_after_the_stage_before() {
        let (tasks, order) = (Tasks::new(), Arc::new(Mutex::new(Vec::new())));
        for stage in [Stage::Store, Stage::Flush, Stage::Intake, Stage::Work] {
            let (stopping, order) = (tasks.stopping(stage), Arc::clone(&order));
            tasks.spawn(stage, "noted", async move {
                stopping.cancelled().await;
                tokio::task::yield_now().await;
                order.lock().unwrap().push(stage);
            });
        }
        tasks.stop(Duration::from_secs(5)).await.unwrap();
        assert_eq!(*order.lock().unwrap(), STAGES);
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_named() {
        let tasks = Tasks::new();
        tasks.spawn(Stage::Work, "stubborn", std::future::pending());
        let late = tasks.stop(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.names, ["stubborn"]);
    }

    #[tokio::test(start_paused = true)]
    async fn killed_tasks_are_gone_without_a_word() {
        let (tasks, dropped) = (Tasks::new(), CancellationToken::new());
        let guard = dropped.clone().drop_guard();
        tasks.spawn(Stage::Work, "stubborn", async move {
            std::future::pending::<()>().await;
            drop(guard);
        });
        tasks.kill();
        dropped.cancelled().await;
        tasks.stop(Duration::from_secs(5)).await.unwrap();
        assert!(tasks.running().is_empty() && !tasks.failed().is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_is_seen_in_a_task_and_in_a_thread() {
        let tasks = Tasks::new();
        tasks.spawn(Stage::Work, "broken", async { panic!("on purpose") });
        tasks.failed().cancelled().await;

        let tasks = Tasks::new();
        tasks
            .spawn_thread(Stage::Work, "broken-thread", || panic!("on purpose"))
            .unwrap();
        tasks.failed().cancelled().await;
        tasks.stop(Duration::from_secs(5)).await.unwrap();
    }
}
