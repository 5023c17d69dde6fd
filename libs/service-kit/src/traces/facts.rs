//! What a span tells beside its name and its times.

use std::fmt::Display;

use opentelemetry::{Array, Value};

/// One value of an attribute. Nothing is copied or formatted when the span records nothing.
pub enum Fact<'a> {
    /// A text.
    Text(&'a str),
    /// What is shown as a text.
    Shown(&'a dyn Display),
    /// Several texts.
    Texts(&'a [&'a str]),
    /// A count or an amount.
    Count(u64),
    /// Yes or no.
    Flag(bool),
}

impl<'a> From<&'a str> for Fact<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Fact<'_> {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Fact<'_> {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

impl From<bool> for Fact<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Fact<'_>> for Value {
    fn from(fact: Fact<'_>) -> Self {
        match fact {
            Fact::Text(text) => text.to_owned().into(),
            Fact::Shown(shown) => shown.to_string().into(),
            Fact::Texts(texts) => {
                let texts = texts.iter().map(|text| (*text).to_owned().into());
                Self::Array(Array::String(texts.collect()))
            }
            Fact::Count(count) => Self::I64(i64::try_from(count).unwrap_or(i64::MAX)),
            Fact::Flag(flag) => Self::Bool(flag),
        }
    }
}
