//! The source's listening socket and control connections: one thread with a runtime of its own, so that they are
//! served whatever the caller's runtime does.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::serving::Serving;
use super::wire::{LinkKey, PREFACE_BYTES, Preface, Purpose};
use super::{TcpOptions, set_up};
use crate::control::{ControlStream, serve_control};
use crate::{Door, Listener};

/// Connections that are being greeted or carry frames, at most.
const MAX_CONTROLS: usize = 2048;
/// A connection says what it is for within this time.
const GREETING: Duration = Duration::from_secs(5);
/// The source lets the destination close first for at most so long, and says farewell for so long when it ends.
const LINGER: Duration = Duration::from_millis(500);
/// Between two tries when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let socket = {
        let _entered = runtime.enter();
        TcpListener::from_std(socket)?
    };
    let (stop, stopping) = oneshot::channel();
    let (unbound, has_unbound) = std_mpsc::sync_channel(1);
    let acceptor = Acceptor {
        door,
        options: options.clone(),
        serving: Arc::clone(&serving),
    };
    std::thread::Builder::new()
        .name("kv-tcp".to_owned())
        .spawn(move || runtime.block_on(Arc::new(acceptor).run(socket, stopping, unbound)))?;
    let guard = Listening {
        stop: Some(stop),
        has_unbound,
        serving,
    };
    Ok(Listener {
        address,
        guard: Box::new(std::sync::Mutex::new(guard)),
    })
}

/// Stops listening when dropped. Control connections get a moment to say farewell.
struct Listening {
    stop: Option<oneshot::Sender<()>>,
    has_unbound: std_mpsc::Receiver<()>,
    serving: Arc<Serving>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Short: the thread only has to wake up. Afterwards nobody can connect any more.
        let _ = self.has_unbound.recv_timeout(LINGER);
        self.serving.close();
    }
}

struct Acceptor {
    door: Door,
    options: TcpOptions,
    serving: Arc<Serving>,
}

impl Acceptor {
    async fn run(
        self: Arc<Self>,
        socket: TcpListener,
        mut stopping: oneshot::Receiver<()>,
        unbound: std_mpsc::SyncSender<()>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut stopping => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = socket.accept(), if connections.len() < MAX_CONTROLS => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(Arc::clone(&self).greet(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "kv transfer cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(socket);
        // The guard waits for it, unless it is gone.
        let _ = unbound.try_send(());
        let ended = async { while connections.join_next().await.is_some() {} };
        // Whoever is not done by then is cut off.
        let _ = timeout(LINGER * 2, ended).await;
    }

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
            match place.served.session().as_mut() {
                Some(session) => session.receive(frame),
                None => Err(crate::LinkClosed),
            }
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
