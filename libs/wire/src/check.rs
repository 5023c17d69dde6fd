//! The checks all messages share. A [`Check`] knows the message's name, so that its errors can say it.

use std::ops::RangeInclusive;

use bytes::Bytes;
use prost::Message;
use vlinders_types::RequestId;

use crate::limits::MAX_NAME_BYTES;
use crate::{Fault, WireError};

/// Encodes a message. Senders keep their messages below the limits, so this cannot fail.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Checks fields of one message.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    pub(crate) message: &'static str,
}

impl Check {
    /// The size is checked before anything is allocated for it.
    pub(crate) fn decode<M: Message + Default>(
        self,
        bytes: &[u8],
        limit_bytes: usize,
    ) -> Result<M, WireError> {
        let message = self.message;
        if bytes.len() > limit_bytes {
            return Err(WireError::TooLarge {
                message,
                bytes: bytes.len(),
                limit_bytes,
            });
        }
        M::decode(bytes).map_err(|source| WireError::Malformed { message, source })
    }

    pub(crate) fn fault(self, field: &'static str, fault: Fault) -> WireError {
        WireError::Invalid {
            message: self.message,
            field,
            fault,
        }
    }

    pub(crate) fn require(self, field: &'static str, holds: bool, fault: Fault) -> Result<(), WireError> {
        if holds {
            Ok(())
        } else {
            Err(self.fault(field, fault))
        }
    }

    pub(crate) fn present<T>(self, field: &'static str, value: Option<T>) -> Result<T, WireError> {
        value.ok_or_else(|| self.fault(field, Fault::Missing))
    }

    pub(crate) fn length(self, field: &'static str, length: usize, limit: usize) -> Result<(), WireError> {
        self.require(field, length <= limit, Fault::TooLong { length, limit })
    }

    /// A name: not empty, short, and safe to write into a log.
    pub(crate) fn name(self, field: &'static str, text: &str) -> Result<(), WireError> {
        self.require(field, !text.is_empty(), Fault::Missing)?;
        self.plain_text(field, text, MAX_NAME_BYTES)
    }

    /// A short text that is safe to write into a log.
    pub(crate) fn plain_text(self, field: &'static str, text: &str, limit: usize) -> Result<(), WireError> {
        self.length(field, text.len(), limit)?;
        self.require(
            field,
            !text.chars().any(char::is_control),
            Fault::ControlCharacters,
        )
    }

    /// NaN lies in no range.
    pub(crate) fn float(
        self,
        field: &'static str,
        value: f32,
        range: RangeInclusive<f32>,
    ) -> Result<(), WireError> {
        self.require(field, range.contains(&value), Fault::OutOfRange)
    }

    /// Above 0 and at most `highest`.
    pub(crate) fn positive(self, field: &'static str, value: f32, highest: f32) -> Result<(), WireError> {
        self.require(field, value > 0.0 && value <= highest, Fault::OutOfRange)
    }

    pub(crate) fn whole(
        self,
        field: &'static str,
        value: u32,
        range: RangeInclusive<u32>,
    ) -> Result<(), WireError> {
        self.require(field, range.contains(&value), Fault::OutOfRange)
    }

    pub(crate) fn array<const LENGTH: usize>(
        self,
        field: &'static str,
        bytes: &[u8],
    ) -> Result<[u8; LENGTH], WireError> {
        let wrong = Fault::WrongLength {
            length: bytes.len(),
            expected: LENGTH,
        };
        bytes.try_into().map_err(|_| self.fault(field, wrong))
    }

    pub(crate) fn request_id(self, bytes: &[u8]) -> Result<RequestId, WireError> {
        self.array("request_id", bytes)
            .map(|array| RequestId(u128::from_be_bytes(array)))
    }

    /// An enum value this version knows and that is not the unspecified zero.
    pub(crate) fn known<E: TryFrom<i32>>(self, field: &'static str, value: i32) -> Result<E, WireError> {
        self.require(field, value != 0, Fault::Missing)?;
        E::try_from(value).map_err(|_| self.fault(field, Fault::UnknownValue(value)))
    }
}

pub(crate) fn request_id_bytes(id: RequestId) -> Vec<u8> {
    id.0.to_be_bytes().to_vec()
}
