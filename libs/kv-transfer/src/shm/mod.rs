//! `shm`: both endpoints live on this host, in processes of the same user.
//!
//! Frames travel over a Unix socket. When a destination has redeemed its ticket, the source gives it the descriptor of
//! its pool, which is sealed; the destination maps it read-only and copies the announced blocks out.
//!
//! The source does not see these reads. It holds its blocks until the destination has released them or has closed
//! its end, or has ignored for a moment that the hand-off is over. A destination that was stopped in the middle of a
//! copy may go on even after that: what it then reads does not fit its checksum, and its RELEASE does not count.

mod socket;
mod views;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use vlinders_kernel_api::KvMemory;
use vlinders_kernel_shared_memory::SharedView;
use vlinders_types::Hello;

use crate::acceptor::{Acceptor, LINGER};
use crate::control::{ControlStream, serve_control};
use crate::readable::Readable;
use crate::{
    BlockRead, DestinationMemory, Door, Frame, KvTransport, Link, LinkClosed, Listener, TransportError,
};
use socket::FdSocket;
use views::Views;

/// The name in [`Hello::transports`].
const NAME: &str = "shm";
/// The first byte of a connection that carries frames.
const CONTROL: u8 = b'C';
/// The first byte of a connection that carries nothing, and ends with the source.
const WATCH: u8 = b'W';
/// A connection says what it is for within this time.
const GREETING: Duration = Duration::from_secs(5);
/// Changes with every start of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How `shm` listens and reads.
#[derive(Clone, Debug)]
pub struct ShmOptions {
    /// Where the endpoint's socket is made; its peers must see the same folder.
    pub directory: PathBuf,
    /// The memory of a source is unmapped after so long without a hand-off.
    pub idle: Duration,
}

impl ShmOptions {
    /// The usual times, with sockets in this folder.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            idle: Duration::from_secs(60),
        }
    }
}

/// Copies blocks out of other processes' memory.
pub struct ShmTransport {
    options: ShmOptions,
    boot_id: String,
    views: Arc<Views>,
}

impl ShmTransport {
    /// Does not listen yet. Endpoints that listen need a pool with [`KvMemory::shared_fd`].
    ///
    /// # Errors
    /// When this host cannot be told from others.
    pub fn new(options: ShmOptions) -> io::Result<Arc<Self>> {
        let boot_id = std::fs::read_to_string(BOOT_ID)?.trim().to_owned();
        let views = Arc::new(Views::new(options.idle));
        Ok(Arc::new(Self {
            options,
            boot_id,
            views,
        }))
    }

    fn bind(&self, door: Door) -> io::Result<Listener> {
        let memory = door.memory().ok_or(io::ErrorKind::NotConnected)?;
        if memory.shared_fd().is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the KV pool is not in shared memory",
            ));
        }
        drop(memory);
        let path = self
            .options
            .directory
            .join(format!("vl-kv-{:016x}.sock", door.incarnation()));
        let socket = StdListener::bind(&path)?;
        let file = SocketFile(path);
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        let address = format!("{}:{}", self.boot_id, file.0.display());
        let acceptor = Acceptor::start(
            "kv-shm",
            || UnixListener::from_std(socket),
            move |stream| greet(door.clone(), stream),
        )?;
        Ok(Listener {
            address,
            guard: Box::new((acceptor, file)),
        })
    }
}

/// Taken away when dropped.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have tidied up already.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn failed(source: io::Error) -> TransportError {
    TransportError::Io {
        transport: NAME,
        source,
    }
}

#[async_trait]
impl KvTransport for ShmTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn listen(&self, door: Door) -> Result<Listener, TransportError> {
        self.bind(door).map_err(failed)
    }

    async fn connect(&self, peer: &Hello, address: &str) -> Result<Box<dyn Link>, TransportError> {
        let path = match address.split_once(':') {
            Some((boot_id, path)) if boot_id == self.boot_id => PathBuf::from(path),
            // Another host, which is no failure.
            Some(_) | None => return Err(TransportError::Unreachable { transport: NAME }),
        };
        let stream = UnixStream::connect(&path).await.map_err(failed)?;
        let mut control = ControlStream::new(FdSocket::new(stream));
        control
            .send_bytes(&[CONTROL])
            .map_err(|_| failed(io::ErrorKind::ConnectionReset.into()))?;
        Ok(Box::new(ShmLink {
            control,
            views: Arc::clone(&self.views),
            incarnation: peer.incarnation,
            path,
            view: None,
            readable: Readable::default(),
        }))
    }
}

/// The source's end of a connection.
async fn greet(door: Door, mut stream: UnixStream) {
    let ours = rustix::process::geteuid().as_raw();
    match stream.peer_cred().map(|theirs| theirs.uid()) {
        Ok(theirs) if theirs == ours => {}
        Ok(theirs) => return tracing::warn!(user = theirs, "kv transfer refused a process of another user"),
        Err(_) => return,
    }
    let mut purpose = [0];
    let Ok(Ok(_)) = timeout(GREETING, stream.read_exact(&mut purpose)).await else {
        return;
    };
    match purpose[0] {
        CONTROL => control(&door, stream).await,
        // Nothing is sent here: the read ends with the peer, or with this task.
        WATCH => drop(stream.read(&mut [0]).await),
        _ => tracing::warn!("kv transfer closed a connection that is none of its own"),
    }
}

async fn control(door: &Door, stream: UnixStream) {
    let (Some((mut session, frames)), Some(memory)) = (door.accept(), door.memory()) else {
        return;
    };
    let mut control = ControlStream::new(FdSocket::new(stream));
    let give = control.socket().giver();
    let mut memory: Option<Arc<dyn KvMemory>> = Some(memory);
    let mut held = None;
    let ended = serve_control(&mut control, frames, |frame| {
        session.receive(frame)?;
        if session.is_attached()
            && let Some(memory) = memory.take()
        {
            held = session.hold();
            give.give(memory);
        }
        if session.is_released() {
            held = None;
        }
        Ok(session.is_attached())
    })
    .await;
    drop(session);
    if ended.is_ok() {
        control.finish(LINGER).await;
    }
    drop(held);
}

struct ShmLink {
    control: ControlStream<FdSocket>,
    views: Arc<Views>,
    incarnation: u64,
    path: PathBuf,
    view: Option<Arc<SharedView>>,
    readable: Readable,
}

impl ShmLink {
    fn view(&mut self) -> Result<Arc<SharedView>, LinkClosed> {
        if let Some(view) = &self.view {
            return Ok(Arc::clone(view));
        }
        let file = self.control.socket().take();
        let path: &Path = &self.path;
        let view = self.views.view(self.incarnation, path, file).map_err(|error| {
            tracing::warn!(%error, "kv transfer cannot map the source's memory");
            LinkClosed
        })?;
        self.view = Some(Arc::clone(&view));
        Ok(view)
    }
}

#[async_trait]
impl Link for ShmLink {
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
        let view = self.view()?;
        for read in reads {
            let offset = read.source.0 as usize * into.block_bytes();
            let mut is_there = false;
            {
                // The pass ends before the yield: a dropped future leaves no write behind.
                let destination = into.begin()?;
                destination.fill(read.destination, &mut |bytes| is_there = view.copy(offset, bytes));
            }
            if !is_there {
                return Err(LinkClosed);
            }
            // A block is up to a few MiB: others on this thread get their turn after each.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
