//! A connection's socket with its limits: time for the first byte, time without a byte taken by the client, and a
//! close that lets the last answer arrive.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::ConnectionFacts;
use super::head_scan::HeadScan;

/// How long a closing connection is read on.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read at most.
const LINGER_BYTES: usize = 64 << 20;

/// The socket's limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketLimits {
    pub(crate) first_byte: Duration,
    pub(crate) stalled_client: Duration,
}

/// A socket with limits.
pub(crate) struct LimitedSocket {
    inner: TcpStream,
    facts: Arc<ConnectionFacts>,
    scan: HeadScan,
    stalled_client: Duration,
    /// Until the first byte has come.
    first_byte: Option<Pin<Box<Sleep>>>,
    /// While the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl LimitedSocket {
    pub(crate) fn new(inner: TcpStream, facts: Arc<ConnectionFacts>, limits: SocketLimits) -> Self {
        Self {
            inner,
            facts,
            scan: HeadScan::new(),
            stalled_client: limits.stalled_client,
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
        let limit = self.stalled_client;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads what the client still sends, so that the kernel does not answer it with a reset that overtakes our
    /// last answer.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (end, left) = self
            .lingering
            .get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut scratch = [0_u8; 8192];
        loop {
            if *left == 0 || end.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => *left = left.saturating_sub(buffer.filled().len()),
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for LimitedSocket {
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

impl AsyncWrite for LimitedSocket {
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
        if self.facts.lingers.load(Ordering::Relaxed) {
            ready!(self.linger(context));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    async fn pair(limits: SocketLimits) -> (LimitedSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        (LimitedSocket::new(socket, Arc::default(), limits), client)
    }

    const SHORT: SocketLimits = SocketLimits {
        first_byte: Duration::from_millis(50),
        stalled_client: Duration::from_millis(50),
    };

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
}
