//! Frames over a stream socket: the control connection of a hand-off, at either end.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::{Frame, LinkClosed, decode_frame, encode_frame};

/// Bytes that wait for the socket at most. Frames are small: a peer that lets so many pile up does not read.
const OUTBOUND_BYTES: usize = 256 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// A destination redeems its ticket within this time after connecting.
const GREETING: Duration = Duration::from_secs(5);

/// What carries the bytes. Reads and writes never block.
pub(crate) trait Socket: Send + Sync + 'static {
    /// Waits until reading or writing is worth trying.
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send;
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Says that nothing follows.
    fn end_writing(&self);
}

impl Socket for TcpStream {
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send {
        self.ready(interest)
    }

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.try_read(into)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }

    fn end_writing(&self) {
        // A socket that is gone has ended too.
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Write);
    }
}

/// A socket with what has arrived in part and what could not be sent yet.
pub(crate) struct ControlStream<S> {
    socket: S,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
}

impl<S: Socket> ControlStream<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            inbound: Vec::new(),
            outbound: Vec::new(),
        }
    }

    /// What carries the bytes.
    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    /// Sends a frame, or keeps it for the next [`recv`](Self::recv). Never blocks.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<(), LinkClosed> {
        let bytes = encode_frame(frame).map_err(|_| LinkClosed)?;
        self.send_bytes(&bytes)
    }

    /// As [`send`](Self::send), for bytes that are no frame.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), LinkClosed> {
        if !self.has_room() {
            return Err(LinkClosed);
        }
        self.outbound.extend_from_slice(bytes);
        self.flush()
    }

    /// Whether another frame may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.outbound.len() < OUTBOUND_BYTES
    }

    /// The next frame; `None` when the peer has closed, or sent what is no frame. Sends what is waiting meanwhile.
    /// Cancel-safe: what has arrived stays here.
    pub(crate) async fn recv(&mut self) -> Option<Frame> {
        loop {
            match decode_frame(&self.inbound) {
                Ok((frame, used)) => {
                    self.inbound.drain(..used);
                    return Some(frame);
                }
                Err(error) if error.is_incomplete() => {}
                Err(error) => {
                    tracing::warn!(%error, "kv transfer peer sent what is no frame");
                    return None;
                }
            }
            self.advance().await.ok()?;
        }
    }

    /// Ends the connection: sends what is waiting, says that nothing follows, and lets the peer close first, so
    /// that what it still sends does not reset the connection under our last frame. At most `linger`.
    pub(crate) async fn finish(mut self, linger: Duration) {
        let farewell = async {
            while !self.outbound.is_empty() {
                self.advance().await?;
            }
            self.socket.end_writing();
            loop {
                self.inbound.clear();
                self.advance().await?;
            }
        };
        let ended: Result<Result<(), LinkClosed>, _> = tokio::time::timeout(linger, farewell).await;
        // Closed by the peer, or not in time: the same to us.
        drop(ended);
    }

    /// Waits for the socket, then moves bytes in both directions as far as they go.
    async fn advance(&mut self) -> Result<(), LinkClosed> {
        let interest = if self.outbound.is_empty() {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        let ready = self.socket.ready(interest).await.map_err(|_| LinkClosed)?;
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            self.fill()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LinkClosed> {
        while !self.outbound.is_empty() {
            match self.socket.try_write(&self.outbound) {
                Ok(0) => return Err(LinkClosed),
                Ok(count) => drop(self.outbound.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(LinkClosed),
            }
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), LinkClosed> {
        let mut bytes = [0; READ_BYTES];
        match self.socket.try_read(&mut bytes) {
            Ok(0) => Err(LinkClosed),
            Ok(count) => {
                self.inbound.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(_) => Err(LinkClosed),
        }
    }
}

/// The source's side of a control connection: frames in both directions until either side is done with it. What the
/// source has to say by then is said. `receive` tells whether a ticket has been redeemed; who takes longer than
/// [`GREETING`] for that is cut off.
///
/// # Errors
/// [`LinkClosed`] when the destination is gone.
pub(crate) async fn serve_control<S: Socket>(
    control: &mut ControlStream<S>,
    mut frames: mpsc::Receiver<Frame>,
    mut receive: impl FnMut(Frame) -> Result<bool, LinkClosed>,
) -> Result<(), LinkClosed> {
    let mut is_attached = false;
    let greeting = tokio::time::sleep(GREETING);
    tokio::pin!(greeting);
    loop {
        let has_room = control.has_room();
        tokio::select! {
            frame = control.recv() => match receive(frame.ok_or(LinkClosed)?) {
                Ok(attached) => is_attached = attached,
                Err(LinkClosed) => break,
            },
            frame = frames.recv(), if has_room => match frame {
                Some(frame) => control.send(&frame)?,
                None => return Ok(()),
            },
            () = &mut greeting, if !is_attached => return Err(LinkClosed),
        }
    }
    // A refusal may be waiting there.
    while let Ok(frame) = frames.try_recv() {
        control.send(&frame)?;
    }
    Ok(())
}
