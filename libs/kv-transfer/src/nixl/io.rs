//! The thread that owns the agent: posts can block it for long, and the library is told that only one thread calls.
//!
//! The library has no deadlines. A read that nobody waits for any more stays here with its [`WritePass`], and so its
//! destination blocks stay in quarantine, until the library has reported its end and let it go.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_nixl::{Agent, AgentOptions, Fault, Library, PeerPool, PoolRead, ReadId, ReadState};

use super::wire::PoolCard;
use crate::{BlockRead, DestinationMemory, LinkClosed, WritePass};

/// Commands that wait for the thread at most; a pull has one at a time.
const QUEUED_COMMANDS: usize = 4096;
/// Between two looks while something is under way, or somebody may read here.
const BUSY_PAUSE: Duration = Duration::from_micros(20);
/// Between two looks otherwise: a peer whose pull was given up may still be reading.
const IDLE_PAUSE: Duration = Duration::from_millis(10);
/// After a failed read its connection is closed. What the peer had sent by then may come for so long.
const SETTLING: Duration = Duration::from_millis(200);
/// Closing the agent takes a fraction of it.
const FAREWELL: Duration = Duration::from_secs(3);
/// A peer nobody reads from for so long is forgotten.
const PEER_IDLE: Duration = Duration::from_secs(60);

/// The thread's other end.
pub(super) struct KvIo {
    commands: SyncSender<Command>,
    visitors: Arc<AtomicUsize>,
    /// Behind a lock only so that it may be shared.
    has_ended: Mutex<Receiver<()>>,
}

enum Command {
    /// Makes the pool readable for others.
    Register {
        memory: Arc<dyn KvMemory>,
        reply: SyncSender<Result<PoolCard, Fault>>,
    },
    Read(ReadJob),
    /// Somebody may read here from now on.
    Visited,
    /// Nothing more will come.
    Close,
}

/// Blocks to read from one source.
pub(super) struct ReadJob {
    /// The life of the source.
    pub(super) incarnation: u64,
    pub(super) card: Arc<PoolCard>,
    pub(super) reads: Vec<BlockRead>,
    pub(super) into: DestinationMemory,
    pub(super) done: oneshot::Sender<Result<(), LinkClosed>>,
}

/// How the agent is made.
pub(super) struct AgentPlan {
    pub(super) library: &'static Library,
    pub(super) name: String,
    /// By name, in the library's words.
    pub(super) settings: Vec<(&'static str, String)>,
}

impl KvIo {
    pub(super) fn start(plan: AgentPlan) -> io::Result<Self> {
        let (commands, queue) = sync_channel(QUEUED_COMMANDS);
        let visitors = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&visitors);
        let (ended, has_ended) = sync_channel(1);
        thread::Builder::new().name("kv-io".to_owned()).spawn(move || {
            let mut worker = Worker {
                plan,
                own: None,
                peers: HashMap::new(),
                under_way: Vec::new(),
            };
            worker.run(&queue, &seen);
            drop(worker);
            // Nobody may be waiting for it.
            let _ = ended.try_send(());
        })?;
        Ok(Self {
            commands,
            visitors,
            has_ended: Mutex::new(has_ended),
        })
    }

    /// Ends the thread with its last read, and waits for that a moment: a peer that does not move holds nobody up.
    pub(super) fn close(&self) {
        match self.commands.try_send(Command::Close) {
            Ok(()) => {}
            // It ends when all its other ends are gone.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return,
        }
        let has_ended = self.has_ended.lock().expect("nothing panics while it is held");
        let _ = has_ended.recv_timeout(FAREWELL);
    }

    /// Makes the pool readable for others. Blocks until that is done.
    pub(super) fn register(&self, memory: Arc<dyn KvMemory>) -> io::Result<PoolCard> {
        let (reply, answer) = sync_channel(1);
        let sent = self.commands.try_send(Command::Register { memory, reply });
        sent.map_err(|_| io::ErrorKind::ResourceBusy)?;
        let answered = answer.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
        answered.map_err(io::Error::other)
    }

    /// Queues a read.
    pub(super) fn submit(&self, job: ReadJob) -> Result<(), LinkClosed> {
        self.commands.try_send(Command::Read(job)).map_err(|_| LinkClosed)
    }

    /// Lets somebody read here until the result is dropped.
    pub(super) fn visit(&self) -> Visit {
        self.visitors.fetch_add(1, Ordering::Relaxed);
        match self.commands.try_send(Command::Visited) {
            // A thread with so much to do looks often.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
        Visit(Arc::clone(&self.visitors))
    }
}

/// Somebody may read here: the thread looks often.
pub(super) struct Visit(Arc<AtomicUsize>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Worker {
    plan: AgentPlan,
    own: Option<OwnPool>,
    /// By incarnation.
    peers: HashMap<u64, Peer>,
    under_way: Vec<UnderWay>,
}

struct OwnPool {
    agent: Agent,
    memory: Arc<dyn KvMemory>,
}

struct Peer {
    pool: PeerPool,
    /// Reads from it that the library has under way.
    reads: usize,
    /// A read has failed: the connection is closed when the others have ended.
    failed: bool,
    used_at: Instant,
}

/// A read whose destination blocks may be written.
struct UnderWay {
    incarnation: u64,
    stage: Stage,
    _writing: WritePass,
}

enum Stage {
    Reading {
        id: ReadId,
        done: oneshot::Sender<Result<(), LinkClosed>>,
    },
    /// Failed; its connection is still needed by others.
    Failed,
    /// Its connection is closed; what was on its way may still come.
    Settling { until: Instant },
}

impl AgentPlan {
    fn carry_out(&self, memory: &Arc<dyn KvMemory>) -> Result<OwnPool, Fault> {
        let settings = self.settings.iter().map(|(name, value)| (*name, value.as_str()));
        let settings: Vec<(&str, &str)> = settings.collect();
        let options = AgentOptions {
            name: &self.name,
            settings: &settings,
            pool: Arc::clone(memory),
        };
        Ok(OwnPool {
            agent: Agent::new(self.library, options)?,
            memory: Arc::clone(memory),
        })
    }
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Command>, visitors: &AtomicUsize) {
        let mut is_closed = false;
        while !(is_closed && self.under_way.is_empty()) {
            let is_busy = !self.under_way.is_empty() || visitors.load(Ordering::Relaxed) > 0;
            let pause = if is_busy { BUSY_PAUSE } else { IDLE_PAUSE };
            match queue.recv_timeout(pause) {
                Ok(Command::Register { memory, reply }) => {
                    // Who asked waits for it.
                    let _ = reply.try_send(self.register(&memory));
                }
                Ok(Command::Read(job)) => self.begin(job),
                Ok(Command::Visited) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Close) => is_closed = true,
                Err(RecvTimeoutError::Disconnected) => {
                    is_closed = true;
                    thread::park_timeout(pause);
                }
            }
            self.move_on();
        }
    }

    /// The agent over this pool; made when it is first needed.
    fn agent_over(&mut self, memory: &Arc<dyn KvMemory>) -> Result<&mut Agent, Fault> {
        let own = match self.own.take() {
            Some(own) => own,
            None => self.plan.carry_out(memory)?,
        };
        let own = self.own.insert(own);
        if !std::ptr::addr_eq(Arc::as_ptr(&own.memory), Arc::as_ptr(memory)) {
            return Err(Fault {
                what: "serve a second pool",
                status: -1,
            });
        }
        Ok(&mut own.agent)
    }

    fn register(&mut self, memory: &Arc<dyn KvMemory>) -> Result<PoolCard, Fault> {
        let agent = self.agent_over(memory)?;
        Ok(PoolCard {
            start: agent.start_address(),
            block_bytes: memory.block_bytes() as u64,
            block_count: memory.block_count(),
            metadata: agent.metadata()?,
        })
    }

    /// Posts a read, unless nobody waits for it any more.
    fn begin(&mut self, job: ReadJob) {
        let Ok(writing) = job.into.begin() else { return };
        let id = match self.post(&job) {
            Ok(id) => id,
            Err(fault) => {
                tracing::warn!(%fault, "kv blocks cannot be read");
                // Who asked may have left.
                let _ = job.done.send(Err(LinkClosed));
                return;
            }
        };
        if let Some(peer) = self.peers.get_mut(&job.incarnation) {
            peer.reads += 1;
        }
        self.under_way.push(UnderWay {
            incarnation: job.incarnation,
            stage: Stage::Reading { id, done: job.done },
            _writing: writing,
        });
    }

    fn post(&mut self, job: &ReadJob) -> Result<ReadId, Fault> {
        self.agent_over(job.into.memory())?;
        let Some(own) = &mut self.own else {
            unreachable!("it was made on the line above")
        };
        let peer = match self.peers.get_mut(&job.incarnation) {
            Some(peer) => peer,
            None => {
                let agent = own.agent.meet(&job.card.metadata)?;
                let pool = PeerPool {
                    agent,
                    start: job.card.start,
                    block_count: job.card.block_count,
                };
                self.peers.entry(job.incarnation).or_insert(Peer {
                    pool,
                    reads: 0,
                    failed: false,
                    used_at: Instant::now(),
                })
            }
        };
        if peer.failed {
            return Err(Fault {
                what: "read before the broken connection is closed",
                status: -1,
            });
        }
        peer.used_at = Instant::now();
        let reads: Vec<PoolRead> = job.reads.iter().map(pool_read).collect();
        own.agent.read(&peer.pool, &reads)
    }

    /// Moves transfers on, ends those that have ended, and forgets peers.
    fn move_on(&mut self) {
        let Some(own) = &mut self.own else { return };
        if let Err(fault) = own.agent.work() {
            tracing::debug!(%fault, "kv transfers are not moved on");
        }
        let now = Instant::now();
        let reads = std::mem::take(&mut self.under_way);
        let peers = &mut self.peers;
        let unsettled = reads
            .into_iter()
            .filter_map(|read| advanced(read, &mut own.agent, peers, now));
        self.under_way = unsettled.collect();
        let under_way = &mut self.under_way;
        peers.retain(|incarnation, peer| {
            let is_idle = now.duration_since(peer.used_at) > PEER_IDLE;
            let stays = peer.reads > 0 || !(peer.failed || is_idle);
            if !stays {
                own.agent.part(&peer.pool.agent);
                settle(under_way, *incarnation, now);
            }
            stays
        });
    }
}

fn pool_read(read: &BlockRead) -> PoolRead {
    PoolRead {
        source: read.source,
        destination: read.destination,
    }
}

/// The connection over which these reads have failed is closed.
fn settle(reads: &mut [UnderWay], incarnation: u64, now: Instant) {
    for read in reads.iter_mut().filter(|read| read.incarnation == incarnation) {
        if matches!(read.stage, Stage::Failed) {
            let until = now + SETTLING;
            read.stage = Stage::Settling { until };
        }
    }
}

/// The read as it stands now; `None` when nothing writes into its blocks any more.
fn advanced(
    mut read: UnderWay,
    agent: &mut Agent,
    peers: &mut HashMap<u64, Peer>,
    now: Instant,
) -> Option<UnderWay> {
    let (id, done) = match read.stage {
        Stage::Reading { id, done } => (id, done),
        Stage::Failed => return Some(read),
        Stage::Settling { until } => return (now < until).then_some(read),
    };
    let result = match agent.poll(id) {
        ReadState::UnderWay => {
            read.stage = Stage::Reading { id, done };
            return Some(read);
        }
        ReadState::Done => Ok(()),
        ReadState::Failed(fault) => {
            tracing::debug!(%fault, "kv blocks were not read");
            Err(LinkClosed)
        }
    };
    if let Some(peer) = peers.get_mut(&read.incarnation) {
        peer.reads -= 1;
        peer.failed |= result.is_err();
    }
    read.stage = Stage::Failed;
    let unsettled = result.is_err().then_some(read);
    // Who asked may have left.
    let _ = done.send(result);
    unsettled
}
