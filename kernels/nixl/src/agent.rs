//! An agent with one registered pool, and the reads into it.

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::Arc;

use vlinders_kernel_api::{KvMemory, PoolPlace};
use vlinders_types::BlockId;

use crate::exit::{inside, stay_out_at_the_end};
use crate::functions::{AgentConfig, Functions, Handle, IN_PROGRESS, READ, SUCCESS, Status};
use crate::library::{Fault, Library, checked, text};
use crate::lists::{self, NO_OPTIONS, Owned};

/// What carries the bytes.
const BACKEND: &str = "UCX";

/// What an agent is made of.
pub struct AgentOptions<'a> {
    /// Unlike that of any other agent it ever meets.
    pub name: &'a str,
    /// Settings of what carries the bytes, in its own words.
    pub settings: &'a [(&'a str, &'a str)],
    /// Whose blocks others read, and which reads fill.
    pub pool: Arc<dyn KvMemory>,
}

/// The pool of another agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPool {
    /// The agent's name, as [`Agent::meet`] returned it.
    pub agent: String,
    /// Where the pool begins, in the peer's own addresses.
    pub start: u64,
    /// Blocks in it.
    pub block_count: u32,
}

/// One block to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRead {
    /// Block of the peer's pool.
    pub source: BlockId,
    /// Block of the agent's own pool.
    pub destination: BlockId,
}

/// Names a read until it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadId(u64);

/// How a read stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// Its destination blocks may still be written.
    UnderWay,
    /// All bytes are there.
    Done,
    /// It ended in another way, and the library has given it up. What the peer's machine had sent by then may still
    /// come while the connection is being closed.
    Failed(Fault),
}

/// Reads from other agents' pools, and lets them read from its own. Stays on its thread: the library is told that
/// only one calls.
pub struct Agent {
    functions: &'static Functions,
    handle: Handle,
    backend: Handle,
    notices: Handle,
    region: Option<Owned<'static>>,
    pool: Arc<dyn KvMemory>,
    place: PoolPlace,
    reads: HashMap<ReadId, Request>,
    next_id: u64,
}

struct Request {
    handle: Handle,
    /// Its post was refused, perhaps after a part of it had begun.
    refused: Option<Fault>,
}

impl Agent {
    /// An agent whose pool is registered.
    ///
    /// # Errors
    /// When the pool does not lie in one place, or the library refuses.
    pub fn new(library: &'static Library, options: AgentOptions<'_>) -> Result<Self, Fault> {
        let functions = &library.functions;
        let nowhere = Fault {
            what: "register a pool that does not lie in one place",
            status: -1,
        };
        let place = options.pool.place().ok_or(nowhere)?;
        let pool_bytes = (options.pool.block_count() as usize).checked_mul(options.pool.block_bytes());
        assert_eq!(
            pool_bytes,
            Some(place.bytes()),
            "the place holds exactly the blocks"
        );
        let mut agent = Self {
            functions,
            handle: null_mut(),
            backend: null_mut(),
            notices: null_mut(),
            region: None,
            pool: options.pool,
            place,
            reads: HashMap::new(),
            next_id: 0,
        };
        let started = agent.start(options.name, options.settings);
        // By now the library has loaded its parts.
        stay_out_at_the_end();
        started.map(|()| agent)
    }

    /// What has begun when something fails is undone by `drop`.
    fn start(&mut self, name: &str, settings: &[(&str, &str)]) -> Result<(), Fault> {
        let _inside = inside();
        let functions = self.functions;
        let name = text("make an agent", name)?;
        let config = AgentConfig {
            // Its own thread and a post wait for one another, for up to 0.6 s; `work` does what it would do.
            progress_thread: false,
            listen_thread: false,
            listen_port: 0,
            thread_sync: 0,
            workers: 1,
            progress_delay_us: 0,
            listen_delay_us: 0,
            telemetry: false,
        };
        // SAFETY: name and settings are copied, and `handle` is a place for the result.
        let status =
            unsafe { (functions.create_agent)(name.as_ptr(), &raw const config, &raw mut self.handle) };
        checked("make an agent", status)?;
        let settings = lists::settings(functions, settings)?;
        let backend = text("start UCX", BACKEND)?;
        // SAFETY: agent and settings are alive, the name is copied, and `backend` is a place for the result.
        let status = unsafe {
            (functions.create_backend)(
                self.handle,
                backend.as_ptr(),
                settings.handle,
                &raw mut self.backend,
            )
        };
        checked("start UCX", status)?;
        self.notices = lists::notices(functions)?;
        let region = lists::region(functions, self.place.start().as_ptr().addr(), self.place.bytes())?;
        // SAFETY: agent and list are alive. The memory is valid as long as the pool lives (`PoolPlace`), and `drop`
        // keeps the pool until it is no longer registered.
        let status = unsafe { (functions.register)(self.handle, region.handle, NO_OPTIONS) };
        checked("register the pool", status)?;
        self.region = Some(region);
        Ok(())
    }

    /// Where the pool begins, for [`PeerPool::start`].
    #[must_use]
    pub fn start_address(&self) -> u64 {
        self.place.start().as_ptr().addr() as u64
    }

    /// What another agent must be told to read from this one. Whoever has it can read and write the whole pool.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn metadata(&self) -> Result<Vec<u8>, Fault> {
        let _inside = inside();
        let (mut start, mut count) = (null_mut(), 0);
        // SAFETY: the agent is alive, and both are places for the result.
        let status = unsafe { (self.functions.local_metadata)(self.handle, &raw mut start, &raw mut count) };
        checked("tell its metadata", status)?;
        Ok(lists::taken_bytes(start, count))
    }

    /// Takes in another agent's [`metadata`](Self::metadata) and returns its name.
    ///
    /// # Errors
    /// When the library cannot make sense of it, or knows an agent of that name already.
    pub fn meet(&mut self, metadata: &[u8]) -> Result<String, Fault> {
        let _inside = inside();
        let mut name = null_mut();
        let bytes = metadata.as_ptr().cast();
        // SAFETY: the agent is alive, the bytes are copied, and `name` is a place for the result.
        let status =
            unsafe { (self.functions.load_metadata)(self.handle, bytes, metadata.len(), &raw mut name) };
        checked("take in a peer's metadata", status)?;
        Ok(lists::taken_text(name))
    }

    /// Forgets an agent and closes the connection to it. Not while a read from it is under way.
    pub fn part(&mut self, agent: &str) {
        let _inside = inside();
        let Ok(name) = CString::new(agent) else { return };
        // SAFETY: the agent is alive and the name is copied. One that is not known is nothing to do.
        unsafe { (self.functions.forget_metadata)(self.handle, name.as_ptr()) };
    }

    /// Begins to read blocks of a peer's pool. They are the caller's alone until [`poll`](Self::poll) has said how the
    /// read ended, as the rule of [`KvMemory`] has it.
    ///
    /// # Errors
    /// When nothing has begun: a block that is in neither pool, or the library refuses.
    pub fn read(&mut self, peer: &PeerPool, reads: &[PoolRead]) -> Result<ReadId, Fault> {
        let _inside = inside();
        let block_bytes = self.pool.block_bytes();
        let unknown = Fault {
            what: "read a block that is not in the pool",
            status: -1,
        };
        let fits = |read: &PoolRead| {
            read.source.0 < peer.block_count && read.destination.0 < self.pool.block_count()
        };
        let peer_start = usize::try_from(peer.start).map_err(|_| unknown)?;
        let peer_bytes = (peer.block_count as usize).checked_mul(block_bytes);
        let peer_end = peer_bytes.and_then(|bytes| peer_start.checked_add(bytes));
        if reads.is_empty() || !reads.iter().all(fits) || peer_end.is_none() {
            return Err(unknown);
        }
        let own_start = self.place.start().as_ptr().addr();
        let range = |start: usize, block: BlockId| (start + block.0 as usize * block_bytes, block_bytes);
        let own = reads.iter().map(|read| range(own_start, read.destination));
        let theirs = reads.iter().map(|read| range(peer_start, read.source));
        let own = lists::ranges(self.functions, own)?;
        let theirs = lists::ranges(self.functions, theirs)?;
        let name = text("read", &peer.agent)?;
        let mut handle = null_mut();
        // SAFETY: agent and lists are alive, both lists and the name are copied, and `handle` is a place for the result.
        let status = unsafe {
            (self.functions.create_request)(
                self.handle,
                READ,
                own.handle,
                theirs.handle,
                name.as_ptr(),
                &raw mut handle,
                NO_OPTIONS,
            )
        };
        checked("prepare a read", status)?;
        // SAFETY: agent and request are alive. The blocks lie in the registered pool, checked above, are the caller's
        // alone, and the pool is kept until the read has ended: by `reads`, see `drop`.
        let status = unsafe { (self.functions.post_request)(self.handle, handle, NO_OPTIONS) };
        let refused = match status {
            SUCCESS | IN_PROGRESS => None,
            status => Some(Fault {
                what: "begin a read",
                status,
            }),
        };
        let id = ReadId(self.next_id);
        self.next_id += 1;
        self.reads.insert(id, Request { handle, refused });
        Ok(id)
    }

    /// How a read stands. Once it has ended it is forgotten, and counts as failed from then on.
    pub fn poll(&mut self, id: ReadId) -> ReadState {
        let _inside = inside();
        let failed = |status| {
            ReadState::Failed(Fault {
                what: "finish a read",
                status,
            })
        };
        let Some(request) = self.reads.get(&id) else {
            return failed(-1);
        };
        let state = match request.refused {
            Some(fault) => ReadState::Failed(fault),
            // SAFETY: agent and request are alive.
            None => match unsafe { (self.functions.request_status)(self.handle, request.handle) } {
                IN_PROGRESS => return ReadState::UnderWay,
                SUCCESS => ReadState::Done,
                status => failed(status),
            },
        };
        // A request that the library does not let go is still under way, whatever it said.
        if self.release(request.handle) != SUCCESS {
            return ReadState::UnderWay;
        }
        self.reads.remove(&id);
        state
    }

    fn release(&self, request: Handle) -> Status {
        // SAFETY: agent and request are alive.
        let status = unsafe { (self.functions.release_request)(self.handle, request) };
        if status == SUCCESS {
            // SAFETY: it is released, so only its shell is left, and nobody uses it any more.
            unsafe { (self.functions.destroy_request)(request) };
        }
        status
    }

    /// Moves everything on that waits for this agent: its own reads, and those of others from its pool where the
    /// machine cannot serve them by itself. Call it often.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn work(&mut self) -> Result<(), Fault> {
        let _inside = inside();
        // SAFETY: agent and list are alive.
        let status = unsafe { (self.functions.fetch_notices)(self.handle, self.notices, NO_OPTIONS) };
        // SAFETY: the list is alive. Nobody tells us anything that matters.
        unsafe { (self.functions.clear_notices)(self.notices) };
        checked("move transfers on", status)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.reads.is_empty() {
            // They may still write: the memory and all that knows of it stay for the rest of the process's life.
            std::mem::forget(Arc::clone(&self.pool));
            std::mem::forget(self.region.take());
            return;
        }
        let _inside = inside();
        let functions = self.functions;
        if let Some(region) = &self.region {
            // SAFETY: agent and list are alive, and the list is the one that was registered.
            unsafe { (functions.deregister)(self.handle, region.handle, NO_OPTIONS) };
        }
        if !self.notices.is_null() {
            // SAFETY: the library made it, and it is not used any more.
            unsafe { (functions.destroy_notices)(self.notices) };
        }
        if !self.backend.is_null() {
            // SAFETY: as above. It is a name for what the agent owns.
            unsafe { (functions.destroy_backend)(self.backend) };
        }
        if !self.handle.is_null() {
            // SAFETY: as above, and all that was made with the agent is gone, but for the empty list.
            unsafe { (functions.destroy_agent)(self.handle) };
        }
    }
}
