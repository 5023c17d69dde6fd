//! A model cut in slices, one on each of several devices of this host: tensor parallelism.
//!
//! Every rank runs whole steps on a thread of its own, so that nothing but the sums of a layer makes it wait for the
//! others. The first one draws for all. Blocks look to everybody else like those of a model that is whole: workers with
//! different numbers of devices hand sequences over to one another.

mod memory;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vlinders_kernel_api::{Backend, Executor, KernelError, KvMemory};
use vlinders_model::LoadedModel;
use vlinders_types::{Batch, StepOutput};

use self::memory::{Part, ShardedMemory};
use crate::model_engine::{facts, limits};
use crate::{Engine, EngineError, EngineFacts, EngineOptions};

/// Ends the waiting of all ranks for one that has failed.
pub type Abandon = Arc<dyn Fn() + Send + Sync>;

/// One slice of a model, and the device that holds it.
pub struct ModelShard {
    /// Loaded with its [`Shard`](vlinders_kernel_api::Shard).
    pub model: Arc<LoadedModel>,
    /// Knows its peers.
    pub backend: Box<dyn Backend>,
}

/// Runs the steps of a model that several devices hold together.
pub struct ShardedEngine {
    first: Rank,
    others: Vec<Helper>,
    memory: Arc<ShardedMemory>,
    facts: EngineFacts,
}

/// A slice with activations and a KV pool of its own.
struct Rank {
    model: Arc<LoadedModel>,
    executor: Box<dyn Executor>,
    abandon: Abandon,
    /// Why the first rank to fail has failed: the others only say that they were left waiting.
    cause: Arc<Mutex<Option<KernelError>>>,
}

/// A rank on a thread of its own.
struct Helper {
    /// None once it is to end.
    steps: Option<Sender<Arc<Batch>>>,
    ended: Receiver<Result<(), KernelError>>,
    thread: Option<JoinHandle<()>>,
}

impl ShardedEngine {
    /// Makes activations and KV pools on all devices, `shards` in the order of their ranks. A budget of bytes is that of all
    /// devices together.
    ///
    /// # Errors
    /// When an option is out of range or a device has no room.
    ///
    /// # Panics
    /// Without shards, or when they are not all of one model in their order.
    pub fn new(
        shards: &[ModelShard],
        abandon: &Abandon,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let (first, _) = shards.split_first().expect("a model has a slice");
        for (rank, shard) in shards.iter().enumerate() {
            let found = shard.model.shard();
            assert!(
                found.rank as usize == rank && found.size as usize == shards.len(),
                "shards come in the order of their ranks"
            );
        }
        let size = first.model.shard().size;
        let limits = limits(&first.model, &*first.backend, options)?;
        let cause = Arc::default();
        let make = |shard: &ModelShard| -> Result<Rank, KernelError> {
            Ok(Rank {
                executor: shard.backend.executor(&shard.model.executor_spec(&limits))?,
                model: Arc::clone(&shard.model),
                abandon: Arc::clone(abandon),
                cause: Arc::clone(&cause),
            })
        };
        let mut ranks = shards.iter().map(make).collect::<Result<Vec<_>, _>>()?;
        let parts = ranks.iter().map(|rank| Part {
            memory: rank.executor.memory(),
            heads: rank
                .model
                .shard()
                .kv_heads(rank.model.config().kv_heads)
                .unwrap_or(0..0),
        });
        let memory = ShardedMemory::new(*first.model.kv_layout(), limits.block_count, parts.collect());
        let facts = facts(
            &first.model,
            &*first.backend,
            &limits,
            &format!("{size} devices, each "),
        );
        let others = ranks.split_off(1).into_iter().map(Helper::start);
        let others = others.collect();
        Ok(Self {
            first: ranks.remove(0),
            others,
            memory: Arc::new(memory),
            facts,
        })
    }
}

impl Engine for ShardedEngine {
    fn step(&mut self, batch: &Batch) -> Result<StepOutput, EngineError> {
        let shared = Arc::new(batch.clone());
        for helper in &self.others {
            helper.begin(&shared);
        }
        let output = self.first.forward(batch);
        // All have ended before anything else happens, whatever became of one.
        let ends: Vec<_> = self.others.iter().map(Helper::end).collect();
        if let Some(cause) = lock(&self.first.cause).take() {
            return Err(cause.into());
        }
        let mut output = output?;
        ends.into_iter().collect::<Result<(), _>>()?;
        output.samples = self.first.executor.sample(batch)?;
        Ok(output)
    }

    fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    fn memory(&self) -> Arc<dyn KvMemory> {
        Arc::clone(&self.memory) as Arc<dyn KvMemory>
    }
}

impl Rank {
    fn forward(&mut self, batch: &Batch) -> Result<StepOutput, KernelError> {
        let error = match self.model.forward(self.executor.as_mut(), batch) {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        self.executor.end();
        // What every rank refuses by itself keeps nobody waiting.
        if let KernelError::Batch(_) = error {
            return Err(error);
        }
        lock(&self.cause).get_or_insert(error);
        (self.abandon)();
        Err(KernelError::Device("a rank of this model has failed".to_owned()))
    }
}

impl Helper {
    fn start(mut rank: Rank) -> Self {
        let (steps, asked) = channel::<Arc<Batch>>();
        let (answer, ended) = channel();
        let name = format!("rank-{}", rank.model.shard().rank);
        let work = move || {
            for batch in asked {
                let done = rank.forward(&batch).map(|_| rank.executor.end());
                if answer.send(done).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(work);
        Self {
            steps: Some(steps),
            ended,
            thread: Some(thread.expect("the system starts a handful of threads")),
        }
    }

    fn begin(&self, batch: &Arc<Batch>) {
        if let Some(steps) = &self.steps {
            // One that is gone is noticed at the end.
            let _gone = steps.send(Arc::clone(batch));
        }
    }

    fn end(&self) -> Result<(), KernelError> {
        let gone = |_| Err(KernelError::Device("the thread of a rank has ended".to_owned()));
        self.ended.recv().unwrap_or_else(gone)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            // It panicked: told already, when its step did not end.
            let _panicked = thread.join();
        }
    }
}

fn lock(cause: &Mutex<Option<KernelError>>) -> MutexGuard<'_, Option<KernelError>> {
    cause.lock().unwrap_or_else(PoisonError::into_inner)
}
