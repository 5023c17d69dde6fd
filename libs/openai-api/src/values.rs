//! How single JSON values are read: with limits held while reading, so that a list too long is refused at its first
//! entry too many, and with errors that say what was expected.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use vlinders_types::TokenId;

use crate::LIMITS;

/// A finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Number;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a number")
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                if value.is_finite() {
                    Ok(Number(value))
                } else {
                    Err(E::custom("must be a finite number"))
                }
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A whole number of any size; held against its range later, so that the error can name the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole(pub(crate) i128);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Whole;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a whole number")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Whole, E> {
                Ok(Whole(value.into()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Whole, E> {
                Ok(Whole(value.into()))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Whole, E> {
                if value.fract() != 0.0 || !value.is_finite() {
                    return Err(E::custom(format!("{value} is not a whole number")));
                }
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "saturates; every range is far smaller"
                )]
                Ok(Whole(value as i128))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A list of at most `MAX` entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounded<T, const MAX: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Reader<T, MAX> {
            type Value = Vec<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "a list of at most {MAX}")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
                read_list(list, MAX)
            }
        }
        deserializer
            .deserialize_seq(Reader::<T, MAX>(PhantomData))
            .map(Self)
    }
}

fn read_list<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut list: A,
    max: usize,
) -> Result<Vec<T>, A::Error> {
    let mut entries = Vec::new();
    while let Some(entry) = list.next_element()? {
        if entries.len() == max {
            return Err(A::Error::custom(format!("more than {max} entries")));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// A token id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) TokenId);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Whole(value) = Whole::deserialize(deserializer)?;
        token(value).map(Token)
    }
}

fn token<E: Error>(value: i128) -> Result<TokenId, E> {
    TokenId::try_from(value).map_err(|_| E::custom(format!("{value} is not a token id")))
}

/// `stop`: one string or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stop(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<StopText>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    out,
                    "a string or a list of at most {} strings",
                    LIMITS.stop_strings
                )
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(vec![stop_text(text)?])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                read_list(list, LIMITS.stop_strings)
            }
        }
        let texts = deserializer.deserialize_any(Reader)?;
        Ok(Self(texts.into_iter().map(|text| text.0).collect()))
    }
}

struct StopText(String);

impl<'de> Deserialize<'de> for StopText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = StopText;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<StopText, E> {
                stop_text(text)
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

fn stop_text<E: Error>(text: &str) -> Result<StopText, E> {
    match text.len() {
        0 => Err(E::custom("a stop string must not be empty")),
        bytes if bytes > LIMITS.stop_bytes => Err(E::custom(format!(
            "a stop string of {bytes} bytes is longer than {}",
            LIMITS.stop_bytes
        ))),
        _ => Ok(StopText(text.to_owned())),
    }
}

/// `logit_bias`: token ids as keys, what to add as values. Sorted by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogitBias(pub(crate) Vec<(TokenId, f64)>);

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = LogitBias;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of token ids and numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if entries.len() == LIMITS.logit_bias_entries {
                        let max = LIMITS.logit_bias_entries;
                        return Err(A::Error::custom(format!("more than {max} entries")));
                    }
                    let value: i128 = key
                        .parse()
                        .map_err(|_| A::Error::custom(format!("{key:?} is not a token id")))?;
                    let Number(bias) = map.next_value()?;
                    entries.push((token(value)?, bias));
                }
                entries.sort_unstable_by_key(|(token, _)| *token);
                match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                    Some(pair) => Err(A::Error::custom(format!("token {} is named twice", pair[0].0))),
                    None => Ok(LogitBias(entries)),
                }
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// `logprobs`: a flag for chat, a count for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logprobs {
    Flag(bool),
    Count(i128),
}

impl<'de> Deserialize<'de> for Logprobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Logprobs;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a boolean (chat) or a whole number (completions)")
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Logprobs, E> {
                Ok(Logprobs::Flag(value))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Logprobs, E> {
                Ok(Logprobs::Count(value.into()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Logprobs, E> {
                Ok(Logprobs::Count(value.into()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
