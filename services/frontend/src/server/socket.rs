//! A connection's socket with its limits: time for the first byte, time without a byte taken by the client, and a
//! close that lets the last answer arrive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::ConnectionFacts;
use super::head_scan::HeadScan;

/// A closing connection is read on until the client has sent nothing for so long.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// How long it is read on at most once the process stops.
const LINGER_STOPPING: Duration = Duration::from_secs(1);
/// How much of it is read at most.
const LINGER_BYTES: usize = 64 << 20;

/// The socket's limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketLimits {
    pub(crate) first_byte: Duration,
    pub(crate) stalled_client: Duration,
    /// How long a closing connection is read on at most.
    pub(crate) linger: Duration,
}

/// A socket with limits.
pub(crate) struct LimitedSocket<S> {
    inner: S,
    facts: Arc<ConnectionFacts>,
    scan: HeadScan,
    limits: SocketLimits,
    /// Until the first byte has come.
    first_byte: Option<Pin<Box<Sleep>>>,
    /// While the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Linger>,
}

/// What is left to a client that still sends although its last answer is on the way.
struct Linger {
    end: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
    bytes: usize,
}

impl Linger {
    fn new(limit: Duration) -> Self {
        Self {
            end: Box::pin(sleep(limit)),
            silence: Box::pin(sleep(LINGER_SILENCE)),
            bytes: LINGER_BYTES,
        }
    }

    /// The process stops.
    fn hurry(&mut self) {
        let soon = Instant::now() + LINGER_STOPPING;
        if soon < self.end.deadline() {
            self.end.as_mut().reset(soon);
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.bytes == 0 || self.end.as_mut().poll(context).is_ready()
    }

    fn note(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.silence.as_mut().reset(Instant::now() + LINGER_SILENCE);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> LimitedSocket<S> {
    pub(crate) fn new(inner: S, facts: Arc<ConnectionFacts>, limits: SocketLimits) -> Self {
        Self {
            inner,
            facts,
            scan: HeadScan::new(),
            limits,
            first_byte: Some(Box::pin(sleep(limits.first_byte))),
            stalled: None,
            lingering: None,
        }
    }

    /// Counts the time in which the client takes nothing.
    fn watch<T>(&mut self, context: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let limit = self.limits.stalled_client;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads what the client still sends. With unread bytes the kernel would answer a close with a reset, which overtakes
    /// our last answer or reaches a client that reads no answer before it has sent everything.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit = self.limits.linger;
        let linger = self.lingering.get_or_insert_with(|| Linger::new(limit));
        if self.facts.is_stopping() {
            linger.hurry();
        }
        let mut scratch = [0_u8; 8192];
        loop {
            if linger.is_over(context) {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.inner).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => linger.note(buffer.filled().len()),
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(()),
                // Only now: on a busy machine, bytes may have waited for us and not we for them.
                Poll::Pending => return linger.silence.as_mut().poll(context),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for LimitedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_pending() {
            let Some(deadline) = &mut self.first_byte else {
                return Poll::Pending;
            };
            ready!(deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.first_byte = None;
        if self.scan.feed(&buffer.filled()[before..]) {
            self.facts.has_both_lengths.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LimitedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(context))?;
        }
        if self.facts.lingers.load(Ordering::Relaxed) || self.scan.is_midway() {
            ready!(self.linger(context));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair(limits: SocketLimits) -> (LimitedSocket<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        (LimitedSocket::new(socket, Arc::default(), limits), client)
    }

    const SHORT: SocketLimits = SocketLimits {
        first_byte: Duration::from_millis(50),
        stalled_client: Duration::from_millis(50),
        linger: Duration::from_millis(50),
    };
    const USUAL: SocketLimits = SocketLimits {
        first_byte: Duration::from_secs(10),
        stalled_client: Duration::from_secs(60),
        linger: Duration::from_secs(30),
    };
    const SECOND: Duration = Duration::from_secs(1);
    const PIPE_BYTES: usize = 1 << 16;

    /// How long a connection lives on behind a refusal while its client does this.
    async fn lives_on<F>(client: F) -> Duration
    where
        F: AsyncFnOnce(DuplexStream, &ConnectionFacts),
    {
        let (inner, end) = tokio::io::duplex(PIPE_BYTES);
        let facts = Arc::new(ConnectionFacts::default());
        facts.linger();
        let mut socket = LimitedSocket::new(inner, Arc::clone(&facts), USUAL);
        let began = Instant::now();
        let server = async move {
            socket.write_all(b"refused").await.unwrap();
            socket.shutdown().await.unwrap();
            began.elapsed()
        };
        tokio::join!(server, client(end, &facts)).0
    }

    #[tokio::test]
    async fn a_silent_client_is_cut_off() {
        let (mut socket, _client) = pair(SHORT).await;
        let error = socket.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let (mut socket, _client) = pair(SHORT).await;
        let began = Instant::now();
        let piece = vec![0_u8; 1 << 20];
        let error = loop {
            if let Err(error) = socket.write_all(&piece).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= SHORT.stalled_client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_its_refusal_only_behind_its_last_byte_gets_it() {
        let lived = lives_on(async |mut client, _| {
            for _ in 0..20 {
                client.write_all(&[b'x'; 4096]).await.unwrap();
                tokio::time::sleep(SECOND).await;
            }
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"refused");
        });
        assert_eq!(lived.await, 20 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_trickles_is_cut_off() {
        let lived = lives_on(async |mut client, _| {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SECOND).await;
            }
        });
        assert_eq!(lived.await, USUAL.linger);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_sends_nor_closes_is_cut_off_soon() {
        let lived = lives_on(async |mut client, _| {
            tokio::time::sleep(SECOND).await;
            client.write_all(b"x").await.unwrap();
            tokio::time::sleep(USUAL.linger).await;
        });
        assert_eq!(lived.await, SECOND + LINGER_SILENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_floods_is_cut_off() {
        let lived = lives_on(async |mut client, _| {
            let (piece, mut sent) = (vec![b'x'; PIPE_BYTES], 0);
            while client.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            // The pipe may hold what nobody read.
            assert!(
                (LINGER_BYTES..=LINGER_BYTES + PIPE_BYTES).contains(&sent),
                "{sent}"
            );
        });
        assert_eq!(lived.await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stops_waits_for_a_refused_client_only_a_moment() {
        let lived = lives_on(async |mut client, facts| {
            facts.stop();
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SECOND / 4).await;
            }
        });
        assert_eq!(lived.await, LINGER_STOPPING);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_in_the_midst_of_a_request_is_waited_for() {
        for (sent, expected) in [
            ("GET / HTTP/1.1\r\n", LINGER_SILENCE),
            ("GET / HTTP/1.1\r\n\r\n", Duration::ZERO),
        ] {
            let (inner, mut client) = tokio::io::duplex(PIPE_BYTES);
            let mut socket = LimitedSocket::new(inner, Arc::default(), USUAL);
            client.write_all(sent.as_bytes()).await.unwrap();
            let mut read = vec![0; sent.len()];
            socket.read_exact(&mut read).await.unwrap();
            let began = Instant::now();
            socket.shutdown().await.unwrap();
            assert_eq!(began.elapsed(), expected, "{sent:?}");
        }
    }
}
