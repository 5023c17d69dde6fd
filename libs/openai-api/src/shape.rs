//! A JSON value seen from afar: enough to tell a default from a wish, without keeping the value.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The longest text kept; names of modes are shorter.
const TEXT_BYTES: usize = 32;

/// What a value looks like.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Null,
    Bool(bool),
    Number(f64),
    /// Cut to nothing when longer than a mode's name.
    Text(String),
    List {
        is_empty: bool,
    },
    Object {
        is_empty: bool,
        /// Its field `type`, if that is a text.
        kind: Option<String>,
    },
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Shape;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any value")
    }
    fn visit_unit<E: Error>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Bool(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Number(value as f64))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Number(value as f64))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Number(value))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Shape, E> {
        let text = if text.len() > TEXT_BYTES { "" } else { text };
        Ok(Shape::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut is_empty = true;
        while list.next_element::<IgnoredAny>()?.is_some() {
            is_empty = false;
        }
        Ok(Shape::List { is_empty })
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let (mut is_empty, mut kind) = (true, None);
        while let Some(key) = map.next_key::<String>()? {
            is_empty = false;
            if key != "type" {
                map.next_value::<IgnoredAny>()?;
            } else if let Shape::Text(text) = map.next_value()? {
                kind = Some(text);
            }
        }
        Ok(Shape::Object { is_empty, kind })
    }
}
