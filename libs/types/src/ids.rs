//! Names for things that could be mistaken for one another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Crockford's base 32, the alphabet of a ULID.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a ULID: 26 x 5 bits hold its 128.
const ULID_CHARS: usize = 26;

/// One request of one client, for its whole life and every attempt. A ULID: 48 bits of milliseconds, then
/// 80 random bits, so ids sort by time of arrival.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RequestId(pub u128);

impl RequestId {
    /// Joins the time of arrival (milliseconds since 1970) and random bits, of which the low 80 are used.
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: u128) -> Self {
        let time = u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80;
        Self(time | (random & ((1 << 80) - 1)))
    }
}

impl RequestId {
    /// The id of the request's choice of this index, which is a sequence of its own; the first one's is the request's.
    #[must_use]
    pub const fn of_choice(self, index: u32) -> Self {
        const RANDOM: u128 = (1 << 80) - 1;
        // Ids that came in the same millisecond differ in 80 random bits: none is so near another.
        Self((self.0 & !RANDOM) | (self.0.wrapping_add(index as u128) & RANDOM))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; ULID_CHARS];
        for (index, slot) in text.iter_mut().enumerate() {
            let shift = 5 * (ULID_CHARS - 1 - index);
            *slot = ALPHABET[((self.0 >> shift) & 31) as usize];
        }
        out.write_str(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A text that is no ULID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 26 characters of Crockford's base 32")]
pub struct InvalidRequestId;

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        if text.len() != ULID_CHARS {
            return Err(InvalidRequestId);
        }
        let mut value: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let digit = ALPHABET
                .iter()
                .position(|known| *known == byte.to_ascii_uppercase());
            let digit = digit.ok_or(InvalidRequestId)? as u128;
            // 26 x 5 = 130 bits: the first character may only carry three.
            if index == 0 && digit > 7 {
                return Err(InvalidRequestId);
            }
            value = (value << 5) | digit;
        }
        Ok(Self(value))
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RequestId {
    type Error = InvalidRequestId;

    fn try_from(text: String) -> Result<Self, InvalidRequestId> {
        text.parse()
    }
}

/// One sequence inside one worker. Never leaves it, never used twice in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// One block of a KV pool: an index below the pool's block count. Byte offsets are computed in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// The chained hash of a full block: of its tokens, everything before them, the model and the tenant's salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub [u8; 16]);

/// A short name of a prefix: the first half of its last block's [`BlockHash`]. Two prefixes may share one by chance, so it
/// only ever says where a prefix is likely to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixMark(pub u64);

impl From<BlockHash> for PrefixMark {
    fn from(BlockHash(bytes): BlockHash) -> Self {
        let (half, _) = bytes.split_at(8);
        Self(u64::from_le_bytes(
            half.try_into().expect("half of sixteen bytes is eight"),
        ))
    }
}

/// One life of a worker process. A restarted worker has a larger one, so late messages are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Wraps the text as it is.
            #[must_use]
            pub fn new(text: &str) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// Who pays and whose cache it is.
    TenantId
);
name_type!(
    /// An API key's public id, never the key itself.
    KeyId
);
name_type!(
    /// The served name of a model, after aliases are resolved.
    ModelName
);
name_type!(
    /// One worker process.
    WorkerId
);
name_type!(
    /// One life of one frontend process: its token inbox is `vl.tok.<this>`.
    FrontendId
);

/// Which half of inference a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// Computes prompts.
    Prefill,
    /// Generates tokens.
    Decode,
}

impl Pool {
    /// The name used in subjects, logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_request_id_reads_back_as_written(value: u128) {
            let id = RequestId(value);
            prop_assert_eq!(id.to_string().parse::<RequestId>(), Ok(id));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in ".{0,30}") {
            let _ = text.parse::<RequestId>();
        }
    }

    #[test]
    fn ids_of_choices_differ_and_keep_their_time() {
        let id = RequestId::from_parts(7, u128::MAX);
        assert_eq!(id.of_choice(0), id);
        assert_eq!(id.of_choice(1), RequestId::from_parts(7, 0));
        assert_eq!(id.of_choice(3), RequestId::from_parts(7, 2));
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let (early, late) = (RequestId::from_parts(1, u128::MAX), RequestId::from_parts(2, 0));
        assert!(early < late && early.to_string() < late.to_string());
    }

    #[test]
    fn a_value_beyond_128_bits_is_refused() {
        assert_eq!(
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<RequestId>(),
            Err(InvalidRequestId)
        );
    }
}
