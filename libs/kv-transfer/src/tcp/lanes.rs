//! The destination's data connections to one source: a few threads that take reads from one queue.
//!
//! A thread begins when there is work and none is idle, keeps its connection, and ends after a time without work.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;

use tokio::sync::mpsc;

use super::TcpOptions;
use super::busy::Busy;
use super::reading::{Connection, Failure};
use crate::link_key::LinkKey;
use crate::{BlockRead, DestinationMemory, LinkClosed};

/// Reads that wait for a thread at most, over all hand-offs from one source.
const QUEUED_JOBS: usize = 4096;

/// One source, in one of its lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) incarnation: u64,
}

/// The lanes to every source. Dropping it ends all threads that have nothing to do, the others after their work.
pub(super) struct Pool {
    options: TcpOptions,
    peers: Mutex<HashMap<Peer, Weak<Lanes>>>,
}

impl Pool {
    pub(super) fn new(options: TcpOptions) -> Self {
        Self {
            options,
            peers: Mutex::default(),
        }
    }

    /// The lanes to `peer`.
    pub(super) fn lanes(&self, peer: Peer) -> Arc<Lanes> {
        let mut peers = self.peers.lock().expect("nothing panics while it is held");
        if let Some(lanes) = peers.get(&peer).and_then(Weak::upgrade) {
            return lanes;
        }
        peers.retain(|_, lanes| lanes.strong_count() > 0);
        let lanes = Arc::new(Lanes {
            peer,
            options: self.options.clone(),
            state: Mutex::default(),
            work: Condvar::new(),
        });
        peers.insert(peer, Arc::downgrade(&lanes));
        lanes
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let peers = self.peers.get_mut().expect("nothing panics while it is held");
        for lanes in peers.values().filter_map(Weak::upgrade) {
            lanes.state().closed = true;
            lanes.work.notify_all();
        }
    }
}

/// The queue and the threads for one source.
pub(super) struct Lanes {
    peer: Peer,
    options: TcpOptions,
    state: Mutex<State>,
    /// Wakes an idle thread: there is work, or the pool is gone.
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// Blocks to read over one connection.
pub(super) struct Job {
    pub(super) key: LinkKey,
    pub(super) reads: Vec<BlockRead>,
    pub(super) into: DestinationMemory,
    pub(super) busy: Arc<Busy>,
    /// Has room for the results of all jobs that share it.
    pub(super) done: mpsc::Sender<Result<(), LinkClosed>>,
}

impl Lanes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// How many connections may work at once.
    pub(super) fn width(&self) -> usize {
        self.options.data_connections.get()
    }

    /// Queues a job.
    ///
    /// # Errors
    /// When too many wait, or no thread can be started.
    pub(super) fn submit(self: &Arc<Self>, job: Job) -> Result<(), LinkClosed> {
        let mut state = self.state();
        if state.jobs.len() >= QUEUED_JOBS || state.closed {
            return Err(LinkClosed);
        }
        if state.idle <= state.jobs.len() && state.threads < self.width() {
            let lanes = Arc::clone(self);
            let started = thread::Builder::new()
                .name("kv-tcp-read".to_owned())
                .spawn(move || lanes.run());
            match started {
                Ok(_detached) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    tracing::error!(%error, "kv transfer cannot start a thread");
                    return Err(LinkClosed);
                }
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        self.work.notify_one();
        Ok(())
    }

    /// A thread's life.
    fn run(&self) {
        let mut connection = None;
        while let Some(job) = self.next_job() {
            let result = self.carry_out(&job, &mut connection);
            if let Err(error) = &result {
                tracing::debug!(%error, peer = %self.peer.address, "kv blocks were not read");
            }
            // Who asked may have left.
            let _ = job.done.try_send(result.map_err(|_| LinkClosed));
        }
    }

    /// Waits for work; `None` after a while without, or when the pool is gone.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.state();
        state.idle += 1;
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let (mut state, _) = self
            .work
            .wait_timeout_while(state, self.options.idle, idle)
            .expect("nothing panics while it is held");
        state.idle -= 1;
        let job = state.jobs.pop_front();
        if job.is_none() {
            state.threads -= 1;
        }
        job
    }

    fn carry_out(&self, job: &Job, slot: &mut Option<Connection>) -> io::Result<()> {
        loop {
            let reused = slot.is_some();
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => self.connect()?,
            };
            match connection.read(job) {
                Ok(()) => {
                    *slot = Some(connection);
                    return Ok(());
                }
                Err(Failure::Refused) => {
                    *slot = Some(connection);
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                // The source closes connections that were idle for long; nothing was read yet.
                Err(Failure::Unanswered(_)) if reused => {}
                Err(Failure::Unanswered(error) | Failure::Broken(error)) => return Err(error),
            }
        }
    }

    fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.peer.address, self.options.stall)?;
        super::set_up(&stream, &self.options)?;
        stream.set_read_timeout(Some(self.options.stall))?;
        Connection::open(stream, self.peer.incarnation)
    }
}
