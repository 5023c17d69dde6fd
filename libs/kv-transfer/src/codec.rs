//! The binary form of [`Frame`]: a fixed header of 12 bytes, then fields of fixed width, little endian.
//!
//! | bytes | header |
//! |---|---|
//! | 0..4 | magic `VLKV` |
//! | 4 | version of this form |
//! | 5 | kind |
//! | 6..8 | zero |
//! | 8..12 | bytes of the body |
//!
//! Every length is checked against its limit before anything is allocated, and a body must be used up exactly.

use bytes::Bytes;
use vlinders_types::{BlockId, RequestId, Ticket};

use crate::Refusal;
use crate::frames::{
    Attach, BlockSum, Frame, HelloFrame, MAX_FRAME_BLOCKS, MAX_LAST_BYTES, Ready, ReleaseOutcome,
};

const MAGIC: [u8; 4] = *b"VLKV";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 12;
/// Number, chunk, first index, block count and the length of `last`.
const READY_FIXED_BYTES: usize = 8 + 4 + 4 + 4 + 4;
const BLOCK_SUM_BYTES: usize = 4 + 8;
/// READY is the largest body.
const MAX_BODY_BYTES: usize = READY_FIXED_BYTES + MAX_FRAME_BLOCKS * BLOCK_SUM_BYTES + MAX_LAST_BYTES;
/// Bytes of one frame at most: the size of a receive buffer.
pub const MAX_FRAME_BYTES: usize = HEADER_BYTES + MAX_BODY_BYTES;
/// Stands for "no last state" where its length would be.
const NO_LAST: u32 = u32::MAX;

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame goes on.
    #[error("a frame of at least {needed_bytes} bytes is incomplete")]
    Incomplete {
        /// Bytes needed before it is worth trying again.
        needed_bytes: usize,
    },
    /// Not our protocol.
    #[error("wrong magic")]
    Magic,
    /// A form we do not know.
    #[error("frame version {0} is not supported")]
    Version(u8),
    /// A kind we do not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A length above its limit, or a body of another size than its fields.
    #[error("a length is out of bounds")]
    Length,
    /// A field with a value it cannot have.
    #[error("field {0} has an impossible value")]
    Value(&'static str),
}

impl FrameError {
    /// Whether more bytes may make it a frame.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        matches!(self, Self::Incomplete { .. })
    }
}

/// The frame's bytes.
///
/// # Errors
/// [`FrameError::Length`] when a READY has more blocks or a longer last state than a frame may carry.
pub fn encode_frame(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind_of(frame), 0, 0, 0, 0, 0, 0]);
    match frame {
        Frame::Hello(hello) => put_hello(&mut out, hello),
        Frame::Attach(attach) => put_attach(&mut out, attach),
        Frame::Refuse(refusal) => out.push(refusal.code()),
        Frame::Ready(ready) => put_ready(&mut out, ready)?,
        Frame::Heartbeat { number } | Frame::Abort { number } => out.extend_from_slice(&number.to_le_bytes()),
        Frame::Release {
            request,
            attempt,
            outcome,
        } => {
            out.extend_from_slice(&request.0.to_le_bytes());
            out.extend_from_slice(&attempt.to_le_bytes());
            out.push(outcome_code(*outcome));
        }
        Frame::Settled {
            request,
            attempt,
            won,
        } => {
            out.extend_from_slice(&request.0.to_le_bytes());
            out.extend_from_slice(&attempt.to_le_bytes());
            out.push(u8::from(*won));
        }
    }
    let body_bytes = u32::try_from(out.len() - HEADER_BYTES).map_err(|_| FrameError::Length)?;
    out[8..HEADER_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
    Ok(out)
}

/// Reads one frame from the front of `bytes`, and how many bytes it took.
///
/// # Errors
/// [`FrameError::Incomplete`] when more bytes are needed, any other when these can never become a frame.
pub fn decode_frame(bytes: &[u8]) -> Result<(Frame, usize), FrameError> {
    // A wrong magic is known from the first wrong byte: no need to wait for a header that will not come.
    if bytes.iter().zip(&MAGIC).any(|(got, want)| got != want) {
        return Err(FrameError::Magic);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(FrameError::Incomplete {
            needed_bytes: HEADER_BYTES,
        });
    }
    let mut header = Fields {
        rest: &bytes[4..HEADER_BYTES],
    };
    let (version, kind) = (header.byte()?, header.byte()?);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    if header.array::<2>()? != [0, 0] {
        return Err(FrameError::Value("reserved"));
    }
    let body_bytes = header.u32()? as usize;
    if body_bytes > MAX_BODY_BYTES {
        return Err(FrameError::Length);
    }
    let frame_bytes = HEADER_BYTES + body_bytes;
    if bytes.len() < frame_bytes {
        return Err(FrameError::Incomplete {
            needed_bytes: frame_bytes,
        });
    }
    let mut body = Fields {
        rest: &bytes[HEADER_BYTES..frame_bytes],
    };
    let frame = read_body(kind, &mut body)?;
    if !body.rest.is_empty() {
        return Err(FrameError::Length);
    }
    Ok((frame, frame_bytes))
}

fn kind_of(frame: &Frame) -> u8 {
    match frame {
        Frame::Hello(_) => 1,
        Frame::Attach(_) => 2,
        Frame::Refuse(_) => 3,
        Frame::Ready(_) => 4,
        Frame::Heartbeat { .. } => 5,
        Frame::Release { .. } => 6,
        Frame::Settled { .. } => 7,
        Frame::Abort { .. } => 8,
    }
}

fn read_body(kind: u8, body: &mut Fields<'_>) -> Result<Frame, FrameError> {
    Ok(match kind {
        1 => Frame::Hello(HelloFrame {
            protocol: body.u32()?,
            incarnation: body.u64()?,
            peer_incarnation: body.u64()?,
            layout_hash: body.u64()?,
            block_bytes: body.u64()?,
        }),
        2 => Frame::Attach(Attach {
            ticket: Ticket {
                number: body.u64()?,
                expires_ms: body.u64()?,
                mac: body.array()?,
            },
            request: body.request()?,
            attempt: body.u32()?,
            block_count: body.u32()?,
            first_needed_block: body.u32()?,
        }),
        3 => Frame::Refuse(Refusal::from_code(body.byte()?).ok_or(FrameError::Value("refusal"))?),
        4 => Frame::Ready(read_ready(body)?),
        5 => Frame::Heartbeat { number: body.u64()? },
        6 => Frame::Release {
            request: body.request()?,
            attempt: body.u32()?,
            outcome: outcome_from(body.byte()?).ok_or(FrameError::Value("outcome"))?,
        },
        7 => Frame::Settled {
            request: body.request()?,
            attempt: body.u32()?,
            won: match body.byte()? {
                0 => false,
                1 => true,
                _ => return Err(FrameError::Value("won")),
            },
        },
        8 => Frame::Abort { number: body.u64()? },
        unknown => return Err(FrameError::Kind(unknown)),
    })
}

fn put_hello(out: &mut Vec<u8>, hello: &HelloFrame) {
    out.extend_from_slice(&hello.protocol.to_le_bytes());
    for value in [
        hello.incarnation,
        hello.peer_incarnation,
        hello.layout_hash,
        hello.block_bytes,
    ] {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_attach(out: &mut Vec<u8>, attach: &Attach) {
    out.extend_from_slice(&attach.ticket.number.to_le_bytes());
    out.extend_from_slice(&attach.ticket.expires_ms.to_le_bytes());
    out.extend_from_slice(&attach.ticket.mac);
    out.extend_from_slice(&attach.request.0.to_le_bytes());
    for value in [attach.attempt, attach.block_count, attach.first_needed_block] {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn put_ready(out: &mut Vec<u8>, ready: &Ready) -> Result<(), FrameError> {
    let last_bytes = ready.last.as_ref().map_or(0, Bytes::len);
    if ready.blocks.len() > MAX_FRAME_BLOCKS || last_bytes > MAX_LAST_BYTES {
        return Err(FrameError::Length);
    }
    let block_count = u32::try_from(ready.blocks.len()).map_err(|_| FrameError::Length)?;
    let last_field = match &ready.last {
        Some(last) => u32::try_from(last.len()).map_err(|_| FrameError::Length)?,
        None => NO_LAST,
    };
    out.extend_from_slice(&ready.number.to_le_bytes());
    for value in [ready.chunk, ready.first_index, block_count, last_field] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    for sum in &ready.blocks {
        out.extend_from_slice(&sum.block.0.to_le_bytes());
        out.extend_from_slice(&sum.xxh3.to_le_bytes());
    }
    if let Some(last) = &ready.last {
        out.extend_from_slice(last);
    }
    Ok(())
}

fn read_ready(body: &mut Fields<'_>) -> Result<Ready, FrameError> {
    let (number, chunk, first_index) = (body.u64()?, body.u32()?, body.u32()?);
    let (block_count, last_field) = (body.u32()? as usize, body.u32()?);
    if block_count > MAX_FRAME_BLOCKS || body.rest.len() < block_count * BLOCK_SUM_BYTES {
        return Err(FrameError::Length);
    }
    let mut blocks = Vec::with_capacity(block_count);
    for _ in 0..block_count {
        blocks.push(BlockSum {
            block: BlockId(body.u32()?),
            xxh3: body.u64()?,
        });
    }
    let last = if last_field == NO_LAST {
        None
    } else {
        let last_bytes = last_field as usize;
        if last_bytes > MAX_LAST_BYTES {
            return Err(FrameError::Length);
        }
        Some(Bytes::copy_from_slice(body.take(last_bytes)?))
    };
    Ok(Ready {
        number,
        chunk,
        first_index,
        blocks,
        last,
    })
}

fn outcome_code(outcome: ReleaseOutcome) -> u8 {
    match outcome {
        ReleaseOutcome::Ok => 0,
        ReleaseOutcome::Abort => 1,
        ReleaseOutcome::BadChecksum => 2,
    }
}

fn outcome_from(code: u8) -> Option<ReleaseOutcome> {
    Some(match code {
        0 => ReleaseOutcome::Ok,
        1 => ReleaseOutcome::Abort,
        2 => ReleaseOutcome::BadChecksum,
        _ => return None,
    })
}

/// Takes fields from the front of a body; running out of bytes is [`FrameError::Length`].
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FrameError::Length)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], FrameError> {
        let (taken, rest) = self.rest.split_first_chunk::<COUNT>().ok_or(FrameError::Length)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn request(&mut self) -> Result<RequestId, FrameError> {
        Ok(RequestId(u128::from_le_bytes(self.array()?)))
    }
}
