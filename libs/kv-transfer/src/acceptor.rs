//! A listening socket with a thread and a runtime of its own, so that control connections are served whatever the
//! caller's runtime does.

use std::io;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections served at once, at most. Further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 2048;
/// Either side lets the other close first for at most so long.
pub(crate) const LINGER: Duration = Duration::from_millis(500);
/// Between two tries when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket.
pub(crate) trait Listen: Send + 'static {
    type Stream: Send;
    fn accept_one(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept_one(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept_one(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Stops listening when dropped; what is being served gets a moment to say farewell.
pub(crate) struct Acceptor {
    stop: Option<oneshot::Sender<()>>,
    /// Behind a lock only so that a guard may be shared.
    has_unbound: std::sync::Mutex<std_mpsc::Receiver<()>>,
}

impl Acceptor {
    /// Starts the thread `name`. `register` makes the socket inside its runtime; `serve` lives as long as a
    /// connection does.
    pub(crate) fn start<L: Listen, Served>(
        name: &str,
        register: impl FnOnce() -> io::Result<L>,
        serve: impl Fn(L::Stream) -> Served + Send + 'static,
    ) -> io::Result<Self>
    where
        Served: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let socket = {
            let _entered = runtime.enter();
            register()?
        };
        let (stop, stopping) = oneshot::channel();
        let (unbound, has_unbound) = std_mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(run(socket, serve, stopping, unbound)))?;
        Ok(Self {
            stop: Some(stop),
            has_unbound: std::sync::Mutex::new(has_unbound),
        })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Short: the thread only has to wake up. Afterwards nobody can connect any more.
        let has_unbound = self.has_unbound.get_mut().expect("it is never locked");
        let _ = has_unbound.recv_timeout(LINGER);
    }
}

async fn run<L: Listen, Served>(
    socket: L,
    serve: impl Fn(L::Stream) -> Served,
    mut stopping: oneshot::Receiver<()>,
    unbound: std_mpsc::SyncSender<()>,
) where
    Served: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopping => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = socket.accept_one(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok(stream) => {
                connections.spawn(serve(stream));
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
