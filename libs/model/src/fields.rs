//! Checked access to the fields of a JSON object: every wrong value becomes an error that names file and field.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use vlinders_types::TokenId;

use crate::ModelError;

/// The fields of one JSON object of one file. `null` counts as absent except where [`Fields::is_null`] asks.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// Name of the object inside the file with a dot after it, or empty for the whole file.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

/// The object a file holds.
///
/// # Errors
/// When the text is not JSON or not an object.
pub(crate) fn parse_object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, ModelError> {
    let malformed = |problem| ModelError::Malformed {
        file: file.to_owned(),
        problem,
    };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(malformed("holds no JSON object".to_owned())),
        Err(error) => Err(malformed(format!("is not valid JSON: {error}"))),
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn new(file: &'a str, prefix: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, prefix, map }
    }

    pub(crate) fn wrong(&self, field: &str, problem: impl Display) -> ModelError {
        let field = format!("{}{field}", self.prefix);
        ModelError::Field {
            file: self.file.to_owned(),
            field,
            problem: problem.to_string(),
        }
    }

    pub(crate) fn unsupported(&self, what: String, supported: &str) -> ModelError {
        ModelError::Unsupported {
            file: self.file.to_owned(),
            what,
            supported: supported.to_owned(),
        }
    }

    pub(crate) fn value(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Whether the field is written down as `null`, which some fields use for "none" where absence means a default.
    pub(crate) fn is_null(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_null)
    }

    pub(crate) fn required<T>(&self, field: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| self.wrong(field, "is missing"))
    }

    /// A whole number inside `range`.
    pub(crate) fn number(&self, field: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.out_of_range(field, value, &range)),
        }
    }

    /// A finite number inside `range`.
    pub(crate) fn real(&self, field: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.out_of_range(field, value, &range)),
        }
    }

    pub(crate) fn flag(&self, field: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.wrong(field, format!("is {}, must be true or false", shown(value))))
    }

    pub(crate) fn text(&self, field: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.wrong(field, format!("is {}, must be a text", shown(value))))
    }

    pub(crate) fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        value
            .as_object()
            .map(Some)
            .ok_or_else(|| self.wrong(field, format!("is {}, must be an object", shown(value))))
    }

    /// A list of texts.
    pub(crate) fn texts(&self, field: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(None);
        };
        let texts = value
            .as_array()
            .and_then(|list| list.iter().map(Value::as_str).collect());
        texts
            .map(Some)
            .ok_or_else(|| self.wrong(field, format!("is {}, must be a list of texts", shown(value))))
    }

    /// One token id or a list of them, each below `vocabulary`.
    pub(crate) fn token_ids(&self, field: &str, vocabulary: u32) -> Result<Vec<TokenId>, ModelError> {
        let Some(value) = self.value(field) else {
            return Ok(Vec::new());
        };
        let list = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        let ids = list
            .iter()
            .map(|entry| entry.as_u64().and_then(|id| TokenId::try_from(id).ok()));
        let ids: Option<Vec<TokenId>> = ids.map(|id| id.filter(|id| *id < vocabulary)).collect();
        ids.ok_or_else(|| {
            self.wrong(
                field,
                format!(
                    "is {}, must be token ids below the vocabulary size {vocabulary}",
                    shown(value)
                ),
            )
        })
    }

    fn out_of_range<T: Display>(&self, field: &str, value: &Value, range: &RangeInclusive<T>) -> ModelError {
        let problem = format!(
            "is {}, must be a number from {} to {}",
            shown(value),
            range.start(),
            range.end()
        );
        self.wrong(field, problem)
    }
}

/// A value as it stands in an error: files may hold anything, of any length.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
