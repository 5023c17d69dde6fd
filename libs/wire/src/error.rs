//! Why bytes are no message. Names the message and the field; never repeats what the field held.

/// Bytes that are no valid message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes than the message may have. Nothing was read.
    #[error("{message}: {bytes} bytes are more than the limit of {limit_bytes}")]
    TooLarge {
        /// Which message was expected.
        message: &'static str,
        /// How many bytes came.
        bytes: usize,
        /// How many may come.
        limit_bytes: usize,
    },
    /// Not the encoding of any message of this kind.
    #[error("{message}: malformed")]
    Malformed {
        /// Which message was expected.
        message: &'static str,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
    /// One field breaks its rule.
    #[error("{message}.{field}: {fault}")]
    Invalid {
        /// Which message the field is in.
        message: &'static str,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Required and absent or empty.
    #[error("missing")]
    Missing,
    /// More bytes or entries than allowed.
    #[error("{length} is more than {limit}")]
    TooLong {
        /// Bytes of a text, entries of a list.
        length: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A number outside its range, or not a number.
    #[error("out of range")]
    OutOfRange,
    /// A text with control characters.
    #[error("has control characters")]
    ControlCharacters,
    /// Not as many bytes as it always has.
    #[error("has {length} bytes, not {expected}")]
    WrongLength {
        /// Bytes that came.
        length: usize,
        /// Bytes it must have.
        expected: usize,
    },
    /// An enum value this version does not know.
    #[error("unknown value {0}")]
    UnknownValue(i32),
    /// Not sorted, or with an entry twice.
    #[error("not sorted and unique")]
    NotSorted,
    /// At odds with another field.
    #[error("does not agree with {0}")]
    Disagrees(&'static str),
}
