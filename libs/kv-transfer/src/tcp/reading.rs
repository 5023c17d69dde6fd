//! One data connection at the destination: asks for blocks and reads them where they belong.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use super::lanes::Job;
use super::wire::{BLOCK_HEAD_BYTES, BlockHead, Preface, Purpose, Request};

/// Blocks up to this size are gathered through a buffer: fewer system calls are worth a second copy.
const SMALL_BLOCK_BYTES: usize = 16 * 1024;
const SMALL_BUFFER_BYTES: usize = 64 * 1024;

/// A connection with what was read beyond the last block.
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    ahead: Ahead,
}

/// Why blocks were not read.
pub(super) enum Failure {
    /// The source lets nobody read them; the connection is as good as before.
    Refused,
    /// Not a byte of the answer came.
    Unanswered(io::Error),
    /// The connection is of no more use.
    Broken(io::Error),
}

impl Connection {
    /// Introduces itself on a new connection.
    pub(super) fn open(stream: TcpStream, incarnation: u64) -> io::Result<Self> {
        let purpose = Purpose::Data;
        (&stream).write_all(&Preface { incarnation, purpose }.encode())?;
        Ok(Self {
            stream: Arc::new(stream),
            ahead: Ahead::default(),
        })
    }

    /// Reads all blocks of the job, in order.
    pub(super) fn read(&mut self, job: &Job) -> Result<(), Failure> {
        let Some(_at_work) = job.busy.enter(&self.stream) else {
            return Err(Failure::Refused);
        };
        let asked = job.reads.iter().map(|read| (read.index, read.source));
        let request = Request::encode(job.key, asked);
        (&*self.stream).write_all(&request).map_err(Failure::Unanswered)?;
        self.ahead.size_for(job.into.block_bytes());
        for (position, read) in job.reads.iter().enumerate() {
            let mut head = [0; BLOCK_HEAD_BYTES];
            if let Err(error) = self.ahead.read_exact(&mut &*self.stream, &mut head) {
                let unanswered = position == 0 && error.kind() != ErrorKind::WouldBlock;
                return Err(if unanswered {
                    Failure::Unanswered(error)
                } else {
                    Failure::Broken(error)
                });
            }
            let head = BlockHead::decode(head).map_err(Failure::Broken)?;
            if head.index != read.index {
                return Err(Failure::Broken(ErrorKind::InvalidData.into()));
            }
            if !head.granted {
                return Err(Failure::Refused);
            }
            // A pass per block: once the pull is over, at most one block is still written.
            let gone = |_| Failure::Broken(ErrorKind::ConnectionAborted.into());
            let pass = job.into.begin().map_err(gone)?;
            let mut filled = Ok(());
            pass.fill(read.destination, &mut |bytes| {
                filled = self.ahead.read_exact(&mut &*self.stream, bytes);
            });
            filled.map_err(Failure::Broken)?;
        }
        Ok(())
    }
}

/// Bytes read ahead. One system call reads the rest of a block and what follows it.
#[derive(Default)]
struct Ahead {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Ahead {
    /// Between large blocks only their heads are read ahead, so that blocks are never copied.
    fn size_for(&mut self, block_bytes: usize) {
        let wanted = if block_bytes <= SMALL_BLOCK_BYTES {
            SMALL_BUFFER_BYTES
        } else {
            BLOCK_HEAD_BYTES
        };
        if self.start == self.end && self.buffer.len() != wanted {
            self.buffer.resize(wanted, 0);
        }
    }

    /// Fills `into`, from the buffer first, then straight from the source.
    fn read_exact(&mut self, source: &mut impl Read, into: &mut [u8]) -> io::Result<()> {
        let buffered = into.len().min(self.end - self.start);
        into[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        let mut filled = buffered;
        while filled < into.len() {
            let rest = &mut into[filled..];
            let wanted = rest.len();
            let mut parts = [IoSliceMut::new(rest), IoSliceMut::new(&mut self.buffer)];
            match source.read_vectored(&mut parts) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    filled += count.min(wanted);
                    (self.start, self.end) = (0, count.saturating_sub(wanted));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives bytes in pieces of odd sizes, over both parts.
    struct Pieces<'a> {
        rest: &'a [u8],
        size: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.read_vectored(&mut [IoSliceMut::new(into)])
        }

        fn read_vectored(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            self.size = self.size % 13 + 1;
            let mut given = 0;
            for part in parts {
                let count = part.len().min(self.size - given).min(self.rest.len());
                let (now, later) = self.rest.split_at(count);
                part[..count].copy_from_slice(now);
                (self.rest, given) = (later, given + count);
            }
            Ok(given)
        }
    }

    #[test]
    fn bytes_keep_their_order_however_they_arrive() {
        let bytes: Vec<u8> = (0..10_000_u32)
            .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
            .collect();
        for block_bytes in [100, SMALL_BLOCK_BYTES + 1] {
            let (mut ahead, mut read) = (Ahead::default(), Vec::new());
            ahead.size_for(block_bytes);
            let mut pieces = Pieces {
                rest: &bytes,
                size: 5,
            };
            for length in (0..).map(|step| step * 7 % 41) {
                let mut into = vec![0; length.min(bytes.len() - read.len())];
                ahead.read_exact(&mut pieces, &mut into).unwrap();
                read.extend_from_slice(&into);
                if read.len() == bytes.len() {
                    break;
                }
            }
            assert_eq!(read, bytes);
            let end = ahead.read_exact(&mut pieces, &mut [0]);
            assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }
}
