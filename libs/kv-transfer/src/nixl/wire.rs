//! What the connections of `nixl` carry beside frames. All numbers are little endian.
//!
//! | first bytes of every connection | 32 |
//! |---|---|
//! | 0..4 | magic `VLKN` |
//! | 4 | version of this form |
//! | 5 | 0: control, frames follow in both directions; 1: the pool's card is asked for |
//! | 6..8 | zero |
//! | 8..16 | incarnation of the source that is meant |
//! | 16..32 | the key of the hand-off |
//!
//! A card is the answer to the second kind, if a ticket was redeemed under the key: a head and the metadata.
//!
//! | head of a card | 32 |
//! |---|---|
//! | 0..8 | where the pool begins, in the source's addresses |
//! | 8..16 | bytes of one block |
//! | 16..20 | blocks |
//! | 20..24 | bytes of metadata that follow |
//! | 24..32 | zero |

use std::io::{self, ErrorKind};

use crate::link_key::{KEY_BYTES, LinkKey};

const MAGIC: [u8; 4] = *b"VLKN";
const VERSION: u8 = 1;
/// Bytes of a [`Preface`].
pub(super) const PREFACE_BYTES: usize = 32;
/// Bytes of a card before its metadata.
pub(super) const CARD_HEAD_BYTES: usize = 32;
/// Metadata is the addresses of a few devices and a few keys.
const MAX_METADATA_BYTES: usize = 64 * 1024;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    Card,
}

/// The first bytes of a connection.
#[derive(Clone, Copy)]
pub(super) struct Preface {
    pub(super) purpose: Purpose,
    /// The life of the source that is meant.
    pub(super) incarnation: u64,
    pub(super) key: LinkKey,
}

impl Preface {
    pub(super) fn encode(self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = match self.purpose {
            Purpose::Control => 0,
            Purpose::Card => 1,
        };
        bytes[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[16..].copy_from_slice(&self.key.0);
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
            0 => Purpose::Control,
            1 => Purpose::Card,
            _ => return None,
        };
        Some(Self {
            purpose,
            incarnation: u64::from_le_bytes(*incarnation),
            key: LinkKey(key),
        })
    }
}

/// Where a source's pool is and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolCard {
    pub(super) start: u64,
    pub(super) block_bytes: u64,
    pub(super) block_count: u32,
    /// The library's own; nothing else looks into it.
    pub(super) metadata: Vec<u8>,
}

impl PoolCard {
    /// # Errors
    /// When the metadata is longer than a card may be.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let count = u32::try_from(self.metadata.len()).unwrap_or(u32::MAX);
        if self.metadata.len() > MAX_METADATA_BYTES {
            let text = format!("{count} bytes of metadata are more than {MAX_METADATA_BYTES}");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let mut bytes = Vec::with_capacity(CARD_HEAD_BYTES + self.metadata.len());
        bytes.extend_from_slice(&self.start.to_le_bytes());
        bytes.extend_from_slice(&self.block_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.block_count.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.metadata);
        Ok(bytes)
    }

    /// A card without its metadata, and how many bytes of that follow.
    ///
    /// # Errors
    /// When this is no head of a card.
    pub(super) fn decode_head(head: &[u8; CARD_HEAD_BYTES]) -> io::Result<(Self, usize)> {
        let (numbers, _) = head.as_chunks::<8>();
        let [start, block_bytes, counts, zero] = numbers else {
            return Err(ErrorKind::InvalidData.into());
        };
        let counts = u64::from_le_bytes(*counts);
        let (block_count, metadata_bytes) = (counts & u64::from(u32::MAX), counts >> 32);
        let metadata_bytes = usize::try_from(metadata_bytes).map_err(|_| ErrorKind::InvalidData)?;
        if metadata_bytes == 0 || metadata_bytes > MAX_METADATA_BYTES || *zero != [0; 8] {
            return Err(ErrorKind::InvalidData.into());
        }
        let card = Self {
            start: u64::from_le_bytes(*start),
            block_bytes: u64::from_le_bytes(*block_bytes),
            block_count: u32::try_from(block_count).map_err(|_| ErrorKind::InvalidData)?,
            metadata: Vec::new(),
        };
        Ok((card, metadata_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> PoolCard {
        PoolCard {
            start: 0x7f00_dead_beef_0000,
            block_bytes: 2 << 20,
            block_count: 70_000,
            metadata: b"whatever".to_vec(),
        }
    }

    #[test]
    fn prefaces_and_cards_survive_the_wire() {
        for purpose in [Purpose::Control, Purpose::Card] {
            let preface = Preface {
                purpose,
                incarnation: 1 << 40,
                key: LinkKey([7; KEY_BYTES]),
            };
            let read = Preface::decode(&preface.encode()).unwrap();
            assert!(read.purpose == purpose && read.incarnation == 1 << 40 && read.key == preface.key);
        }
        let bytes = card().encode().unwrap();
        let (head, rest) = bytes.split_first_chunk().unwrap();
        let (read, metadata_bytes) = PoolCard::decode_head(head).unwrap();
        assert_eq!((metadata_bytes, rest), (8, &b"whatever"[..]));
        let metadata = rest.to_vec();
        assert_eq!(PoolCard { metadata, ..read }, card());
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = Preface {
            purpose: Purpose::Card,
            incarnation: 1,
            key: LinkKey([1; KEY_BYTES]),
        }
        .encode();
        for (at, byte) in [(0, b'X'), (4, 9), (5, 2), (6, 1)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(Preface::decode(&bad).is_none(), "byte {at}");
        }
        let good = card().encode().unwrap();
        let head: [u8; CARD_HEAD_BYTES] = good[..CARD_HEAD_BYTES].try_into().unwrap();
        // No metadata, more than a card may have, and what nobody means.
        for (at, byte) in [(20, 0), (22, 2), (23, 1), (31, 1)] {
            let mut bad = head;
            bad[at] = byte;
            assert!(PoolCard::decode_head(&bad).is_err(), "byte {at}");
        }
        let metadata = vec![0; MAX_METADATA_BYTES + 1];
        assert!(PoolCard { metadata, ..card() }.encode().is_err());
    }
}
