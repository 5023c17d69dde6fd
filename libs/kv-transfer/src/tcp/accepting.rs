//! What the source does with the connections that come in.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::serving::Serving;
use super::wire::{PREFACE_BYTES, Preface, Purpose};
use super::{TcpOptions, set_up};
use crate::acceptor::{Acceptor, LINGER};
use crate::control::{ControlStream, serve_control};
use crate::link_key::LinkKey;
use crate::{Door, LinkClosed, Listener};

/// A connection says what it is for within this time.
const GREETING: Duration = Duration::from_secs(5);

/// Binds and starts the thread.
pub(super) fn listen(door: Door, options: &TcpOptions) -> io::Result<Listener> {
    if options.listen.ip().is_unspecified() {
        let reason = "the address must be that of one interface";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let socket = StdListener::bind(options.listen)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?.to_string();
    let serving = Arc::new(Serving::default());
    let entrance = Arc::new(Entrance {
        door,
        options: options.clone(),
        serving: Arc::clone(&serving),
    });
    let acceptor = Acceptor::start(
        "kv-tcp",
        || TcpListener::from_std(socket),
        move |stream| Arc::clone(&entrance).greet(stream),
    )?;
    let guard = Listening {
        _acceptor: acceptor,
        serving,
    };
    Ok(Listener {
        address,
        guard: Box::new(guard),
    })
}

/// Ends the data connections when dropped, and stops listening.
struct Listening {
    _acceptor: Acceptor,
    serving: Arc<Serving>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.serving.close();
    }
}

struct Entrance {
    door: Door,
    options: TcpOptions,
    serving: Arc<Serving>,
}

impl Entrance {
    /// Reads what the connection is for, and serves it.
    async fn greet(self: Arc<Self>, mut stream: TcpStream) {
        let mut bytes = [0; PREFACE_BYTES];
        let Ok(Ok(_)) = timeout(GREETING, stream.read_exact(&mut bytes)).await else {
            return;
        };
        match Preface::decode(&bytes) {
            Some(Preface {
                purpose: Purpose::Control(key),
                ..
            }) => self.control(stream, key).await,
            // An earlier life's blocks are not here any more.
            Some(Preface {
                purpose: Purpose::Data,
                incarnation,
            }) if incarnation == self.door.incarnation() => {
                if let Err(error) = self.data(stream) {
                    tracing::warn!(%error, "kv transfer cannot serve a data connection");
                }
            }
            Some(_) => tracing::debug!("kv transfer closed a data connection meant for another life"),
            None => tracing::warn!("kv transfer closed a connection that is none of its own"),
        }
    }

    async fn control(&self, stream: TcpStream, key: LinkKey) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let Some((session, frames)) = self.door.accept() else {
            return;
        };
        let Some(place) = self.serving.admit(key, session) else {
            return;
        };
        let mut control = ControlStream::new(stream);
        let ended = serve_control(&mut control, frames, |frame| {
            let mut session = place.served.session();
            let session = session.as_mut().ok_or(LinkClosed)?;
            session.receive(frame)?;
            Ok(session.is_attached())
        })
        .await;
        drop(place);
        if ended.is_ok() {
            control.finish(LINGER).await;
        }
    }

    fn data(&self, stream: TcpStream) -> io::Result<()> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        set_up(&stream, &self.options)?;
        // The destination closes idle connections first.
        stream.set_read_timeout(Some(self.options.idle * 2))?;
        self.serving.serve(stream)
    }
}
