//! `nixl`: the destination reads the source's pool by itself, past the source's processor where the machines have RDMA.
//!
//! Frames travel over TCP as with `tcp`. When a destination has redeemed its ticket, it asks the source for its card:
//! where the pool lies and what the library needs to reach it. Whoever has the card can read the whole pool, and write
//! it. On RDMA a stranger must guess the card's keys; on other lanes they protect nothing, so plain TCP must be asked
//! for by name ([`NixlLanes::Any`]).
//!
//! The library gives no deadlines and cannot take back a read safely. So a read that is given up goes on: its blocks
//! stay in quarantine until it has ended, which is when its peer moves again, or is found dead.
//!
//! The source does not see the reads. It holds its blocks as `shm` does, and what a destination reads after that does
//! not fit its checksum.

mod accepting;
mod io;
mod wire;

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_nixl::Library;
use vlinders_types::Hello;

use crate::control::ControlStream;
use crate::link_key::LinkKey;
use crate::readable::Readable;
use crate::{
    BlockRead, DestinationMemory, Door, Frame, KvTransport, Link, LinkClosed, Listener, TransportError,
};
use io::{AgentPlan, KvIo, ReadJob};
use wire::{CARD_HEAD_BYTES, PoolCard, Preface, Purpose};

/// The name in [`Hello::transports`].
const NAME: &str = "nixl";
/// Where the system lists its RDMA devices.
const RDMA_DEVICES: &str = "/sys/class/infiniband";

/// What may carry the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NixlLanes {
    /// RDMA, and the memory of this host; never plain TCP.
    Protected,
    /// Whatever there is. On plain TCP whoever reaches the port may read and write the pool.
    Any,
    /// Plain TCP alone, for tests and measurements.
    Tcp,
    /// The memory of this host alone, for tests and measurements: on it the library cannot find out that a peer is dead.
    SharedMemory,
}

/// How `nixl` listens and reads.
#[derive(Clone, Debug)]
pub struct NixlOptions {
    /// Address of one interface for frames; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What may carry the bytes.
    pub lanes: NixlLanes,
    /// The one network device that carries them, in the library's words; none leaves the choice to the library.
    pub device: Option<String>,
}

impl NixlOptions {
    /// Protected lanes, and frames on this address.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            lanes: NixlLanes::Protected,
            device: None,
        }
    }

    /// The settings by name, in the library's words. For lanes and devices its environment goes first.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let lanes = match self.lanes {
            NixlLanes::Protected => Some("TLS=^tcp"),
            NixlLanes::Any => None,
            NixlLanes::Tcp => Some("TLS=tcp"),
            NixlLanes::SharedMemory => Some("TLS=shm"),
        };
        let device = self.device.as_ref().map(|device| format!("NET_DEVICES={device}"));
        let engine: Vec<String> = lanes.map(str::to_owned).into_iter().chain(device).collect();
        let finds_dead_peers = self.lanes != NixlLanes::SharedMemory;
        let errors = if finds_dead_peers { "peer" } else { "none" };
        vec![
            ("engine_config", engine.join(",")),
            ("ucx_error_handling_mode", errors.to_owned()),
        ]
    }
}

/// Lets destinations read blocks by themselves.
pub struct NixlTransport {
    options: NixlOptions,
    io: Arc<KvIo>,
}

impl NixlTransport {
    /// Loads the library; does not listen yet. Endpoints need a pool with a
    /// [`place`](vlinders_kernel_api::KvMemory::place).
    ///
    /// # Errors
    /// When the library cannot be loaded, or this host has no lanes of the wanted kind.
    pub fn new(options: NixlOptions) -> std::io::Result<Arc<Self>> {
        let library = Library::load().map_err(|error| Error::new(ErrorKind::NotFound, error))?;
        if options.lanes == NixlLanes::Protected {
            if !has_rdma() {
                let text = "there is no RDMA device, and on plain TCP the library's keys protect nothing";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            if std::env::var_os("UCX_TLS").is_some() {
                let text =
                    "UCX_TLS is set and may let in plain TCP, where the library's keys protect nothing";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        if options.lanes == NixlLanes::Any && !has_rdma() {
            tracing::warn!("nixl has no RDMA here: whoever reaches its ports can read and write the KV pool");
        }
        // No two agents that meet may have the same name.
        let name = u128::from_le_bytes(LinkKey::random()?.0);
        let io = KvIo::start(AgentPlan {
            library,
            name: format!("vl-{name:032x}"),
            settings: options.settings(),
        })?;
        let io = Arc::new(io);
        Ok(Arc::new(Self { options, io }))
    }

    /// Makes this pool readable for others now, not when the endpoint listens: what can fail here fails by itself, and
    /// another transport can be used instead. A transport has one pool.
    ///
    /// # Errors
    /// When the library cannot start or cannot register the pool.
    pub fn prepare(&self, memory: Arc<dyn KvMemory>) -> std::io::Result<()> {
        self.io.register(memory).map(drop)
    }

    async fn open(&self, peer: &Hello, address: &str) -> std::io::Result<NixlLink> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let address = stream.peer_addr()?;
        let preface = Preface {
            purpose: Purpose::Control,
            incarnation: peer.incarnation,
            key: LinkKey::random()?,
        };
        let mut control = ControlStream::new(stream);
        control
            .send_bytes(&preface.encode())
            .map_err(|_| Error::from(ErrorKind::ConnectionReset))?;
        Ok(NixlLink {
            control,
            io: Arc::clone(&self.io),
            address,
            preface,
            card: None,
            readable: Readable::default(),
        })
    }
}

impl Drop for NixlTransport {
    fn drop(&mut self) {
        self.io.close();
    }
}

fn has_rdma() -> bool {
    std::fs::read_dir(RDMA_DEVICES).is_ok_and(|mut devices| devices.next().is_some())
}

fn failed(source: Error) -> TransportError {
    TransportError::Io {
        transport: NAME,
        source,
    }
}

#[async_trait]
impl KvTransport for NixlTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        accepting::listen(door, &self.options, &self.io).map_err(failed)
    }

    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError> {
        let link = self.open(peer, address).await.map_err(failed)?;
        Ok(Box::new(link))
    }
}

struct NixlLink {
    control: ControlStream<TcpStream>,
    io: Arc<KvIo>,
    address: SocketAddr,
    preface: Preface,
    card: Option<Arc<PoolCard>>,
    readable: Readable,
}

impl NixlLink {
    /// The source's card, asked for once.
    async fn card(&mut self, block_bytes: usize) -> std::io::Result<Arc<PoolCard>> {
        if let Some(card) = &self.card {
            return Ok(Arc::clone(card));
        }
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let preface = Preface {
            purpose: Purpose::Card,
            ..self.preface
        };
        stream.write_all(&preface.encode()).await?;
        let mut head = [0; CARD_HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        let (mut card, metadata_bytes) = PoolCard::decode_head(&head)?;
        if card.block_bytes != block_bytes as u64 {
            return Err(ErrorKind::InvalidData.into());
        }
        card.metadata.resize(metadata_bytes, 0);
        stream.read_exact(&mut card.metadata).await?;
        let card = Arc::new(card);
        self.card = Some(Arc::clone(&card));
        Ok(card)
    }
}

#[async_trait]
impl Link for NixlLink {
    fn send(&mut self, frame: Frame) -> Result<(), LinkClosed> {
        self.control.send(&frame)
    }

    async fn recv(&mut self) -> Option<Frame> {
        let frame = self.control.recv().await?;
        self.readable.note(&frame);
        Some(frame)
    }

    async fn read_blocks(&mut self, reads: &[BlockRead], into: &DestinationMemory) -> Result<(), LinkClosed> {
        if reads.is_empty() {
            return Ok(());
        }
        if !self.readable.covers(reads) {
            return Err(LinkClosed);
        }
        let card = self.card(into.block_bytes()).await.map_err(|error| {
            tracing::debug!(%error, peer = %self.address, "kv transfer got no card");
            LinkClosed
        })?;
        let (done, ended) = oneshot::channel();
        self.io.submit(ReadJob {
            incarnation: self.preface.incarnation,
            card,
            reads: reads.to_vec(),
            into: into.clone(),
            done,
        })?;
        ended.await.unwrap_or(Err(LinkClosed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tcp_carries_nothing_unless_it_is_asked_for() {
        let mut options = NixlOptions::new(([127, 0, 0, 1], 0).into());
        let engine = |options: &NixlOptions| options.settings()[0].1.clone();
        assert_eq!(engine(&options), "TLS=^tcp");
        options.lanes = NixlLanes::Any;
        assert_eq!(engine(&options), "");
        options.lanes = NixlLanes::Tcp;
        options.device = Some("lo".to_owned());
        assert_eq!(engine(&options), "TLS=tcp,NET_DEVICES=lo");
    }
}
