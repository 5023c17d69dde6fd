//! What the connections of `tcp` carry beside frames. All numbers are little endian.
//!
//! | first bytes of every connection | 32 |
//! |---|---|
//! | 0..4 | magic `VLKT` |
//! | 4 | version of this form |
//! | 5 | 0: control, frames follow in both directions; 1: data |
//! | 6..8 | zero |
//! | 8..16 | incarnation of the source that is meant |
//! | 16..32 | control: the key by which data connections name this hand-off; data: zero |
//!
//! On a data connection the destination asks (key, count, zero, then index and block of each) and the source answers
//! each block with its index, a status and, when that is 0, the block's bytes. A status of 1 ends the answer.

use std::io::{self, ErrorKind, Read};

use vlinders_types::BlockId;

use crate::link_key::{KEY_BYTES, LinkKey};

const MAGIC: [u8; 4] = *b"VLKT";
const VERSION: u8 = 1;
/// Bytes of a [`Preface`].
pub(super) const PREFACE_BYTES: usize = 32;
const REQUEST_HEAD_BYTES: usize = KEY_BYTES + 8;
const READ_BYTES: usize = 8;
/// Bytes of a [`BlockHead`].
pub(super) const BLOCK_HEAD_BYTES: usize = 8;
/// Blocks of one request at most.
pub(super) const MAX_REQUEST_BLOCKS: usize = crate::MAX_FRAME_BLOCKS;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control(LinkKey),
    Data,
}

/// The first bytes of a connection.
#[derive(Clone, Copy)]
pub(super) struct Preface {
    /// The life of the source that is meant.
    pub(super) incarnation: u64,
    pub(super) purpose: Purpose,
}

impl Preface {
    pub(super) fn encode(self) -> [u8; PREFACE_BYTES] {
        let (kind, key) = match self.purpose {
            Purpose::Control(key) => (0, key.0),
            Purpose::Data => (1, [0; KEY_BYTES]),
        };
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = kind;
        bytes[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[16..].copy_from_slice(&key);
        bytes
    }

    /// `None` when these are not the first bytes of any of our connections.
    pub(super) fn decode(bytes: &[u8; PREFACE_BYTES]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let (incarnation, key) = rest.split_first_chunk::<8>()?;
        let key: [u8; KEY_BYTES] = key.try_into().ok()?;
        if head[..4] != MAGIC || head[4] != VERSION || head[6..] != [0, 0] {
            return None;
        }
        let purpose = match head[5] {
            0 => Purpose::Control(LinkKey(key)),
            1 if key == [0; KEY_BYTES] => Purpose::Data,
            _ => return None,
        };
        Some(Self {
            incarnation: u64::from_le_bytes(*incarnation),
            purpose,
        })
    }
}

/// Blocks a destination asks for.
pub(super) struct Request {
    pub(super) key: LinkKey,
    /// Index in the sequence, and block of the source.
    pub(super) reads: Vec<(u32, BlockId)>,
}

impl Request {
    pub(super) fn encode(key: LinkKey, reads: impl ExactSizeIterator<Item = (u32, BlockId)>) -> Vec<u8> {
        let count = u32::try_from(reads.len()).expect("a request is no larger than a frame");
        let mut bytes = Vec::with_capacity(REQUEST_HEAD_BYTES + reads.len() * READ_BYTES);
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for (index, block) in reads {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&block.0.to_le_bytes());
        }
        bytes
    }

    /// The next request; `None` when the destination has closed between two.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; REQUEST_HEAD_BYTES];
        if from.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..])?;
        let (key, rest) = head
            .split_first_chunk::<KEY_BYTES>()
            .expect("the head begins with the key");
        let (count, zero) = two_numbers(rest.try_into().expect("eight bytes are left"));
        let count = count as usize;
        if zero != 0 || count == 0 || count > MAX_REQUEST_BLOCKS {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; count * READ_BYTES];
        from.read_exact(&mut body)?;
        let (reads, _) = body.as_chunks::<READ_BYTES>();
        let reads = reads.iter().map(|read| {
            let (index, block) = two_numbers(*read);
            (index, BlockId(block))
        });
        Ok(Some(Self {
            key: LinkKey(*key),
            reads: reads.collect(),
        }))
    }
}

/// What comes before a block's bytes, or instead of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) index: u32,
    /// False: it may not be read, and nothing follows.
    pub(super) granted: bool,
}

impl BlockHead {
    pub(super) fn encode(self) -> [u8; BLOCK_HEAD_BYTES] {
        let mut bytes = [0; BLOCK_HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..].copy_from_slice(&u32::from(!self.granted).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: [u8; BLOCK_HEAD_BYTES]) -> io::Result<Self> {
        let (index, status) = two_numbers(bytes);
        match status {
            0 | 1 => Ok(Self {
                index,
                granted: status == 0,
            }),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

fn two_numbers(bytes: [u8; 8]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = bytes;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefaces_and_requests_survive_the_wire() {
        let key = LinkKey([7; KEY_BYTES]);
        for purpose in [Purpose::Control(key), Purpose::Data] {
            let bytes = Preface {
                incarnation: 1 << 40,
                purpose,
            }
            .encode();
            let read = Preface::decode(&bytes).unwrap();
            assert!(read.incarnation == 1 << 40 && read.purpose == purpose);
        }
        let reads = [(3, BlockId(9)), (u32::MAX, BlockId(0))];
        let bytes = Request::encode(key, reads.into_iter());
        let mut rest = bytes.as_slice();
        let request = Request::read(&mut rest).unwrap().unwrap();
        assert!(request.key == key && request.reads == reads);
        assert!(Request::read(&mut rest).unwrap().is_none());
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = Preface {
            incarnation: 1,
            purpose: Purpose::Data,
        }
        .encode();
        for (at, byte) in [(0, b'X'), (4, 9), (5, 2), (6, 1), (31, 1)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(Preface::decode(&bad).is_none(), "byte {at}");
        }
        let request = Request::encode(LinkKey([0; KEY_BYTES]), [(0, BlockId(0))].into_iter());
        for (at, byte) in [(KEY_BYTES, 0), (KEY_BYTES + 3, 1), (KEY_BYTES + 4, 1)] {
            let mut bad = request.clone();
            bad[at] = byte;
            assert!(Request::read(&mut bad.as_slice()).is_err(), "byte {at}");
        }
        assert!(
            Request::read(&mut &request[..request.len() - 1]).is_err(),
            "cut short"
        );
        assert!(BlockHead::decode([0, 0, 0, 0, 2, 0, 0, 0]).is_err());
    }
}
