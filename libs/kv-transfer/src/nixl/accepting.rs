//! What the source does with the connections that come in.

use std::collections::HashSet;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::NixlOptions;
use super::io::KvIo;
use super::wire::{PREFACE_BYTES, Preface, Purpose};
use crate::acceptor::{Acceptor, LINGER};
use crate::control::{ControlStream, serve_control};
use crate::link_key::LinkKey;
use crate::{Door, Listener};

/// A connection says what it is for, and takes what it asked for, within this time.
const GREETING: Duration = Duration::from_secs(5);

/// Registers the pool, binds, and starts the thread.
pub(super) fn listen(door: Door, options: &NixlOptions, io: &Arc<KvIo>) -> io::Result<Listener> {
    if options.listen.ip().is_unspecified() {
        let reason = "the address must be that of one interface";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let memory = door.memory().ok_or(io::ErrorKind::NotConnected)?;
    let card = io.register(memory)?.encode()?;
    let socket = StdListener::bind(options.listen)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?.to_string();
    let entrance = Arc::new(Entrance {
        door,
        card,
        io: Arc::clone(io),
        attached: Mutex::default(),
    });
    let acceptor = Acceptor::start(
        "kv-nixl",
        || TcpListener::from_std(socket),
        move |stream| Arc::clone(&entrance).greet(stream),
    )?;
    Ok(Listener {
        address,
        guard: Box::new(acceptor),
    })
}

struct Entrance {
    door: Door,
    /// What a destination must be told to read here.
    card: Vec<u8>,
    io: Arc<KvIo>,
    /// Keys under which a ticket was redeemed, while their control connections last.
    attached: Mutex<HashSet<LinkKey>>,
}

impl Entrance {
    fn attached(&self) -> MutexGuard<'_, HashSet<LinkKey>> {
        self.attached.lock().expect("nothing panics while it is held")
    }

    /// Reads what the connection is for, and serves it.
    async fn greet(self: Arc<Self>, mut stream: TcpStream) {
        let mut bytes = [0; PREFACE_BYTES];
        let Ok(Ok(_)) = timeout(GREETING, stream.read_exact(&mut bytes)).await else {
            return;
        };
        let Some(preface) = Preface::decode(&bytes) else {
            return tracing::warn!("kv transfer closed a connection that is none of its own");
        };
        match preface.purpose {
            Purpose::Control => self.control(stream, preface.key).await,
            Purpose::Card => {
                let is_meant = preface.incarnation == self.door.incarnation();
                if is_meant && self.attached().contains(&preface.key) {
                    // A destination that left needs no card.
                    let _ = timeout(GREETING, stream.write_all(&self.card)).await;
                } else {
                    tracing::warn!("kv transfer refused a destination without a ticket");
                }
            }
        }
    }

    async fn control(&self, stream: TcpStream, key: LinkKey) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let Some((mut session, frames)) = self.door.accept() else {
            return;
        };
        let mut control = ControlStream::new(stream);
        let (mut held, mut visit) = (None, None);
        let ended = serve_control(&mut control, frames, |frame| {
            session.receive(frame)?;
            if session.is_attached() && visit.is_none() {
                visit = Some(Attached::new(self, key)?);
                // Reads happen without a word: the blocks stay until the destination has released them or is gone.
                held = session.hold();
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
        drop((held, visit));
    }
}

/// A destination that may ask for the card, and read.
struct Attached<'a> {
    entrance: &'a Entrance,
    key: LinkKey,
    _visit: super::io::Visit,
}

impl<'a> Attached<'a> {
    /// # Errors
    /// When the key is taken.
    fn new(entrance: &'a Entrance, key: LinkKey) -> Result<Self, crate::LinkClosed> {
        if !entrance.attached().insert(key) {
            return Err(crate::LinkClosed);
        }
        Ok(Self {
            entrance,
            key,
            _visit: entrance.io.visit(),
        })
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.entrance.attached().remove(&self.key);
    }
}
