//! `tcp`: blocks over the network.
//!
//! A hand-off has a control connection of its own, which carries frames. Block bytes travel on a few data connections
//! per pair of peers, kept open between hand-offs, each with a blocking thread at either end: the source writes from
//! its pool into the socket, the destination reads from the socket into its pool, nothing lies in between.
//!
//! Who stops is found out by the lease. A read or a write that makes no progress ends with its hand-off, which shuts
//! the socket down, or after [`TcpOptions::stall`].

mod accepting;
mod busy;
mod lanes;
mod reading;
mod serving;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use vlinders_types::Hello;

use crate::control::ControlStream;
use crate::link_key::LinkKey;
use crate::{
    BlockRead, DestinationMemory, Door, Frame, KvTransport, Link, LinkClosed, Listener, TransportError,
};
use busy::Busy;
use lanes::{Job, Lanes, Peer, Pool};
use wire::{MAX_REQUEST_BLOCKS, Preface, Purpose};

/// The name in [`Hello::transports`].
const NAME: &str = "tcp";
/// Less than this is not worth another connection.
const MIN_JOB_BYTES: usize = 256 * 1024;

/// How `tcp` listens and reads.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Address of one interface; port 0 takes a free one. Never the unspecified address: blocks are not offered on
    /// interfaces nobody has named.
    pub listen: SocketAddr,
    /// Data connections from one destination to one source.
    pub data_connections: NonZeroUsize,
    /// A read or write without progress for so long is given up, and so is connecting.
    pub stall: Duration,
    /// Data connections without work for so long are closed.
    pub idle: Duration,
    /// Size of each socket's buffers; none leaves them to the system, which lets them grow as needed.
    pub buffer_bytes: Option<usize>,
}

impl TcpOptions {
    /// The usual numbers, on this address.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            data_connections: NonZeroUsize::new(4).expect("four is not zero"),
            stall: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            buffer_bytes: None,
        }
    }
}

/// Moves blocks over TCP.
pub struct TcpTransport {
    options: TcpOptions,
    pool: Pool,
}

impl TcpTransport {
    /// Does not listen yet. Links need a runtime with I/O; what else it needs it starts itself.
    #[must_use]
    pub fn new(options: TcpOptions) -> Arc<Self> {
        let pool = Pool::new(options.clone());
        Arc::new(Self { options, pool })
    }

    async fn open(&self, peer: &Hello, address: &str) -> io::Result<TcpLink> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let lanes = self.pool.lanes(Peer {
            address: stream.peer_addr()?,
            incarnation: peer.incarnation,
        });
        let key = LinkKey::random()?;
        let preface = Preface {
            incarnation: peer.incarnation,
            purpose: Purpose::Control(key),
        };
        let mut control = ControlStream::new(stream);
        control
            .send_bytes(&preface.encode())
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
        Ok(TcpLink {
            control,
            key,
            lanes,
            busy: Arc::default(),
        })
    }
}

fn failed(source: io::Error) -> TransportError {
    TransportError::Io {
        transport: NAME,
        source,
    }
}

/// What all data connections need.
fn set_up(stream: &std::net::TcpStream, options: &TcpOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(options.stall))?;
    if let Some(bytes) = options.buffer_bytes {
        rustix::net::sockopt::set_socket_send_buffer_size(stream, bytes)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(stream, bytes)?;
    }
    Ok(())
}

#[async_trait]
impl KvTransport for TcpTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        accepting::listen(door, &self.options).map_err(failed)
    }

    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError> {
        let link = self.open(peer, address).await.map_err(failed)?;
        Ok(Box::new(link))
    }
}

struct TcpLink {
    control: ControlStream<TcpStream>,
    key: LinkKey,
    lanes: Arc<Lanes>,
    busy: Arc<Busy>,
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        // Reads that have begun end now, also from a peer that does not move.
        self.busy.close();
    }
}

#[async_trait]
impl Link for TcpLink {
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        self.control.send(&frame)
    }

    async fn recv(&mut self) -> Option<Frame> {
        self.control.recv().await
    }

    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed> {
        let least = MIN_JOB_BYTES.div_ceil(into.block_bytes().max(1));
        let blocks = reads.len().div_ceil(self.lanes.width());
        let jobs = reads.chunks(blocks.max(least).clamp(1, MAX_REQUEST_BLOCKS));
        let (done, mut results) = mpsc::channel(jobs.len().max(1));
        for reads in jobs {
            self.lanes.submit(Job {
                key: self.key,
                reads: reads.to_vec(),
                into: into.clone(),
                busy: Arc::clone(&self.busy),
                done: done.clone(),
            })?;
        }
        drop(done);
        let mut arrived = 0;
        while let Some(result) = results.recv().await {
            result?;
            arrived += 1;
        }
        // A thread that ended without a word has not read anything.
        let wanted = reads.chunks(blocks.max(least).clamp(1, MAX_REQUEST_BLOCKS)).len();
        if arrived == wanted {
            Ok(())
        } else {
            Err(LinkClosed)
        }
    }
}
