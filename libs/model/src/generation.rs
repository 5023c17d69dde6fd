//! generation_config.json → the sampling a model's makers recommend.

use vlinders_types::TokenId;

use crate::ModelError;
use crate::fields::{Fields, parse_object};

/// Recommended sampling. A field is none when the makers do not speak of it.
///
/// `do_sample` is not read: its absence means greedy to the library that defined the file and is the usual state of
/// files whose makers never thought about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// As [`vlinders_types::SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// As [`vlinders_types::SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// As [`vlinders_types::SamplingParams::top_k`].
    pub top_k: Option<u32>,
    /// As [`vlinders_types::SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// As [`vlinders_types::SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a sequence.
    pub end_tokens: Vec<TokenId>,
}

impl GenerationConfig {
    /// Reads generation_config.json of a model with `vocabulary` tokens. `file` is the name used in errors.
    ///
    /// # Errors
    /// When it is malformed or a value is out of range.
    pub fn parse(file: &str, bytes: &[u8], vocabulary: u32) -> Result<Self, ModelError> {
        let map = parse_object(file, bytes)?;
        let fields = Fields::new(file, "", &map);
        #[expect(clippy::cast_possible_truncation, reason = "sampling parameters are f32")]
        let real =
            |field: &str, range| Ok::<_, ModelError>(fields.real(field, range)?.map(|number| number as f32));
        Ok(Self {
            temperature: real("temperature", 0.0..=100.0)?,
            top_p: real("top_p", f64::from(f32::MIN_POSITIVE)..=1.0)?,
            top_k: fields.number("top_k", 0..=1 << 24)?,
            min_p: real("min_p", 0.0..=1.0)?,
            repetition_penalty: real("repetition_penalty", 1e-3..=1e3)?,
            end_tokens: fields.token_ids("eos_token_id", vocabulary)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GenerationConfig, ModelError> {
        GenerationConfig::parse("generation_config.json", text.as_bytes(), 100)
    }

    #[test]
    fn what_is_not_said_stays_open() {
        let read = parse(r#"{"temperature": 0.6, "top_k": null, "eos_token_id": [2, 5], "do_sample": true}"#)
            .unwrap();
        let expected = GenerationConfig {
            temperature: Some(0.6),
            end_tokens: vec![2, 5],
            ..GenerationConfig::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_value_out_of_range_names_its_field() {
        for (text, field) in [
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"top_p": 0}"#, "top_p"),
            (r#"{"top_k": 1.5}"#, "top_k"),
            (r#"{"min_p": "x"}"#, "min_p"),
            (r#"{"eos_token_id": [100]}"#, "eos_token_id"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
    }
}
