//! The parameters' names: which work, which are known but not offered yet, and what an unknown one may have meant.
//!
//! Names are checked in a pass of their own, before any value is kept, so that a misspelt constraint is an error and
//! never a silently unconstrained answer.

use std::fmt;
use std::sync::LazyLock;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use crate::shape::Shape;
use crate::{ApiError, json};

/// What to do with names nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// Refuse them.
    #[default]
    Refuse,
    /// Pass over them, unless they are nearly a name we know.
    Ignore,
}

/// Which endpoint a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
    Tokenize,
    Detokenize,
    Messages,
    Responses,
    Embeddings,
    Decisions,
    Batches,
}

/// A known name and what happens when it is present.
pub(crate) type Row = (&'static str, Standing);

/// What happens when a known parameter is present.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    /// It is read and has its effect.
    Works,
    /// It works on the other endpoint only.
    Elsewhere,
    /// Refused, unless the value asks for what happens anyway. Null always does.
    NotOffered(Harmless),
}

/// Values of a refused parameter that ask for nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Harmless {
    NullOnly,
    Bool(bool),
    EmptyList,
    Text(&'static str),
}

use Standing::{Elsewhere as E, NotOffered as N, Works as W};

const NULL: Standing = N(Harmless::NullOnly);
const FALSE: Standing = N(Harmless::Bool(false));
const LIST: Standing = N(Harmless::EmptyList);

/// Name, standing for chat, standing for completions.
#[rustfmt::skip]
const PARAMETERS: &[(&str, Standing, Standing)] = &[
    // The request itself.
    ("model", W, W), ("messages", W, E), ("prompt", E, W), ("stream", W, W), ("stream_options", W, W),
    ("user", W, W), ("safety_identifier", W, W), ("metadata", W, W), ("service_tier", W, W),
    ("priority", W, W), ("cache_salt", W, W), ("prompt_cache_key", W, W), ("store", FALSE, FALSE),
    // Drawing tokens.
    ("temperature", W, W), ("top_p", W, W), ("top_k", W, W), ("min_p", W, W), ("seed", W, W),
    ("presence_penalty", W, W), ("frequency_penalty", W, W), ("repetition_penalty", W, W),
    ("logit_bias", W, W), ("logprobs", W, W), ("top_logprobs", W, E), ("n", W, W), ("best_of", E, W),
    // The end.
    ("max_tokens", W, W), ("max_completion_tokens", W, W), ("min_tokens", W, W), ("stop", W, W),
    ("stop_token_ids", W, W), ("ignore_eos", W, W),
    // The prompt.
    ("echo", FALSE, W), ("add_generation_prompt", W, E), ("continue_final_message", W, E),
    ("chat_template_kwargs", W, E), ("chat_template", NULL, NULL), ("suffix", E, NULL),
    ("truncate_prompt_tokens", W, W), ("add_special_tokens", W, W),
    ("documents", LIST, LIST), ("prompt_logprobs", W, W), ("mm_processor_kwargs", NULL, NULL),
    // Constraints and tools.
    ("tools", W, LIST), ("functions", W, LIST), ("function_call", W, NULL),
    ("tool_choice", W, NULL), ("parallel_tool_calls", W, E),
    ("response_format", W, W), ("structured_outputs", W, W), ("guided_json", W, W), ("guided_regex", W, W),
    ("guided_choice", W, W), ("guided_grammar", W, W), ("guided_decoding_backend", NULL, NULL),
    ("guided_whitespace_pattern", NULL, NULL), ("allowed_token_ids", W, W), ("bad_words", W, W),
    ("logits_processors", LIST, LIST), ("json_schema", NULL, NULL), ("grammar", NULL, NULL),
    ("regex", NULL, NULL), ("ebnf", NULL, NULL),
    // Reasoning, sound, pictures, the web.
    ("reasoning_effort", W, NULL), ("reasoning", NULL, NULL), ("include_reasoning", W, NULL),
    ("thinking", NULL, NULL), ("verbosity", N(Harmless::Text("medium")), NULL), ("audio", NULL, NULL), ("modalities", NULL, NULL),
    ("prediction", NULL, NULL), ("web_search_options", NULL, NULL), ("prompt_cache_retention", NULL, NULL),
    ("moderation", NULL, NULL),
    // Other ways to search and to print.
    ("use_beam_search", FALSE, FALSE), ("length_penalty", NULL, NULL), ("early_stopping", FALSE, FALSE),
    ("skip_special_tokens", W, W),
    ("spaces_between_special_tokens", N(Harmless::Bool(true)), N(Harmless::Bool(true))),
    ("include_stop_str_in_output", W, W), ("return_token_ids", W, W),
    ("return_tokens_as_token_ids", W, W), ("typical_p", NULL, NULL), ("mirostat", NULL, NULL),
    ("kv_transfer_params", NULL, NULL), ("request_id", NULL, NULL), ("lora_path", NULL, NULL),
];

#[rustfmt::skip]
const TOKENIZE: &[Row] = &[
    ("model", W), ("prompt", W), ("messages", W), ("add_special_tokens", W), ("return_token_strs", W),
    ("add_generation_prompt", W), ("continue_final_message", W), ("chat_template_kwargs", W), ("tools", W),
    ("chat_template", NULL), ("mm_processor_kwargs", NULL),
];

#[rustfmt::skip]
const EMBEDDINGS: &[Row] = &[
    ("model", W), ("input", W), ("dimensions", W), ("encoding_format", W), ("user", W), ("priority", W),
    ("cache_salt", W), ("metadata", W), ("safety_identifier", W), ("input_type", NULL), ("messages", NULL),
    ("truncate_prompt_tokens", NULL), ("add_special_tokens", N(Harmless::Bool(true))),
];

#[rustfmt::skip]
const DECISIONS: &[Row] = &[
    ("model", W), ("input", W), ("messages", W), ("labels", W), ("calibrate", W), ("chat_template_kwargs", W),
    ("user", W), ("priority", W), ("cache_salt", W), ("metadata", W), ("safety_identifier", W),
    ("stream", FALSE), ("temperature", NULL), ("logprobs", NULL),
];

const DETOKENIZE: &[Row] = &[("model", W), ("tokens", W)];

#[rustfmt::skip]
const MESSAGES: &[Row] = &[
    ("model", W), ("messages", W), ("system", W), ("max_tokens", W), ("stop_sequences", W), ("stream", W),
    ("temperature", W), ("top_p", W), ("top_k", W), ("metadata", W), ("service_tier", W), ("tools", W),
    ("tool_choice", W), ("thinking", W), ("container", NULL), ("context_management", NULL), ("mcp_servers", LIST),
    ("output_config", NULL), ("output_format", NULL), ("inference_geo", NULL), ("cache_control", W), ("betas", LIST),
];

#[rustfmt::skip]
const RESPONSES: &[Row] = &[
    ("model", W), ("input", W), ("instructions", W), ("max_output_tokens", W), ("temperature", W), ("top_p", W),
    ("stream", W), ("metadata", W), ("user", W), ("safety_identifier", W), ("prompt_cache_key", W),
    ("service_tier", W), ("parallel_tool_calls", W), ("tools", W), ("tool_choice", W), ("text", W), ("reasoning", W),
    ("store", W), ("previous_response_id", W), ("background", FALSE), ("conversation", NULL),
    ("include", W), ("max_tool_calls", NULL), ("prompt", NULL), ("top_logprobs", W),
    ("truncation", N(Harmless::Text("disabled"))), ("stream_options", NULL), ("prompt_cache_retention", NULL),
    ("prompt_cache_options", NULL), ("background_options", NULL), ("context_management", LIST), ("moderation", NULL),
    ("image", NULL), ("access_programs", NULL),
];

#[rustfmt::skip]
const BATCHES: &[Row] = &[
    ("input_file_id", W), ("endpoint", W), ("completion_window", W), ("metadata", W), ("output_expires_after", W),
];

/// The names an endpoint knows.
fn rows(endpoint: Endpoint) -> &'static [Row] {
    type Parameter = (&'static str, Standing, Standing);
    fn column(standing: impl Fn(&Parameter) -> Standing) -> Vec<Row> {
        PARAMETERS.iter().map(|row| (row.0, standing(row))).collect()
    }
    static CHAT: LazyLock<Vec<Row>> = LazyLock::new(|| column(|row| row.1));
    static COMPLETION: LazyLock<Vec<Row>> = LazyLock::new(|| column(|row| row.2));
    match endpoint {
        Endpoint::Chat => &CHAT,
        Endpoint::Completion => &COMPLETION,
        Endpoint::Tokenize => TOKENIZE,
        Endpoint::Detokenize => DETOKENIZE,
        Endpoint::Messages => MESSAGES,
        Endpoint::Responses => RESPONSES,
        Endpoint::Embeddings => EMBEDDINGS,
        Endpoint::Decisions => DECISIONS,
        Endpoint::Batches => BATCHES,
    }
}

/// The parameters that have their effect at an endpoint.
pub(crate) fn working(endpoint: Endpoint) -> impl Iterator<Item = &'static str> {
    let works = |row: &&Row| matches!(row.1, Standing::Works);
    rows(endpoint).iter().filter(works).map(|row| row.0)
}

impl Harmless {
    fn covers(self, shape: &Shape) -> bool {
        match (self, shape) {
            (_, Shape::Null) => true,
            (Self::Bool(wanted), Shape::Bool(value)) => wanted == *value,
            (Self::EmptyList, Shape::List { is_empty }) => *is_empty,
            (Self::Text(wanted), Shape::Text(value)) => wanted == value,
            (
                Self::NullOnly | Self::Bool(_) | Self::EmptyList | Self::Text(_),
                Shape::Bool(_)
                | Shape::Number(_)
                | Shape::Text(_)
                | Shape::List { .. }
                | Shape::Object { .. },
            ) => false,
        }
    }
}

/// Checks the names of a body's fields. The first bad one ends the pass.
pub(crate) fn check(body: &[u8], endpoint: Endpoint, unknown: UnknownFields) -> Result<(), ApiError> {
    let mut verdict = None;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let pass = Pass {
        rows: rows(endpoint),
        unknown,
        verdict: &mut verdict,
    };
    let read = pass.deserialize(&mut reader).and_then(|()| reader.end());
    match (verdict, read) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(json::api_error(".", &error)),
    }
}

struct Pass<'a> {
    rows: &'static [Row],
    unknown: UnknownFields,
    /// Leaves the pass beside its error, since the reader's error holds only text.
    verdict: &'a mut Option<ApiError>,
}

impl<'de> DeserializeSeed<'de> for Pass<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pass<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = vec![false; self.rows.len()];
        while let Some(name) = map.next_key::<String>()? {
            let refusal = match self.rows.iter().position(|(known, _)| *known == name) {
                None => {
                    let refusal = unknown_name(&name, self.rows, self.unknown);
                    if refusal.is_none() {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                    refusal
                }
                Some(index) if std::mem::replace(&mut seen[index], true) => {
                    Some(ApiError::invalid(&name, "is given twice"))
                }
                Some(index) => refusal(self.rows[index], &map.next_value()?),
            };
            if refusal.is_some() {
                *self.verdict = refusal;
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

fn refusal((name, standing): Row, shape: &Shape) -> Option<ApiError> {
    match standing {
        Standing::Works => None,
        Standing::Elsewhere if *shape == Shape::Null => None,
        Standing::Elsewhere => Some(ApiError::not_offered(
            name,
            "has no meaning on this endpoint; leave it out",
        )),
        Standing::NotOffered(harmless) if harmless.covers(shape) => None,
        Standing::NotOffered(_) => Some(ApiError::not_offered(
            name,
            "is not offered by this server yet; leave it out",
        )),
    }
}

fn unknown_name(name: &str, rows: &'static [Row], unknown: UnknownFields) -> Option<ApiError> {
    let near = nearest(name, rows);
    let text = match (near, unknown) {
        (None, UnknownFields::Ignore) => return None,
        (None, UnknownFields::Refuse) => "is not a parameter of this endpoint".to_owned(),
        (Some(near), UnknownFields::Ignore | UnknownFields::Refuse) => {
            format!("is not a parameter of this endpoint; did you mean {near}?")
        }
    };
    Some(ApiError::invalid(name, text).with_code("unknown_parameter"))
}

/// The known name that `name` most likely stands for.
fn nearest(name: &str, rows: &'static [Row]) -> Option<&'static str> {
    /// No known name is longer; a longer input cannot be near one.
    const LONGEST: usize = 40;
    if name.len() > LONGEST {
        return None;
    }
    let wanted = folded(name);
    let candidates = rows
        .iter()
        .filter(|(_, standing)| matches!(standing, Standing::Works | Standing::NotOffered(_)));
    candidates
        .map(|(known, _)| (edits(&wanted, &folded(known)), *known))
        .min()
        .filter(|(edits, known)| *edits * 4 <= known.len())
        .map(|(_, known)| known)
}

/// `maxTokens`, `max-tokens` and `max_tokens` are one word.
fn folded(name: &str) -> Vec<char> {
    name.chars()
        .filter(|char| !matches!(char, '_' | '-' | ' '))
        .map(|char| char.to_ascii_lowercase())
        .collect()
}

/// Insertions, deletions and replacements that turn one word into the other.
fn edits(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, left_char) in left.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right_char) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(left_char != right_char);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        check(body.as_bytes(), Endpoint::Chat, UnknownFields::Refuse)
            .unwrap_err()
            .message
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_right_one() {
        for (wrong, right) in [
            ("temprature", "temperature"),
            ("maxTokens", "max_tokens"),
            ("respose_format", "response_format"),
            ("guided-json", "guided_json"),
        ] {
            let text = message(&format!(r#"{{"{wrong}":1}}"#));
            assert!(text.ends_with(&format!("did you mean {right}?")), "{text}");
        }
        assert_eq!(
            message(r#"{"favourite_colour":1}"#),
            "favourite_colour: is not a parameter of this endpoint"
        );
    }

    #[test]
    fn ignoring_unknown_names_still_refuses_near_misses() {
        let check = |body: &[u8]| check(body, Endpoint::Chat, UnknownFields::Ignore);
        assert!(check(br#"{"favourite_colour":[1,{"a":2}]}"#).is_ok());
        assert!(check(br#"{"guided_jsn":{}}"#).is_err());
    }

    #[test]
    fn a_refused_parameter_may_ask_for_nothing() {
        let check = |body: &str| check(body.as_bytes(), Endpoint::Chat, UnknownFields::Refuse).is_ok();
        assert!(check(
            r#"{"documents":[],"verbosity":"medium","use_beam_search":false}"#
        ));
        assert!(check(r#"{"tools":null,"audio":null}"#));
        for body in [r#"{"documents":[1]}"#, r#"{"verbosity":"high"}"#] {
            assert!(!check(body), "{body}");
        }
    }

    /// Whatever is added to the tables: a wish that cannot be honoured is an error, and one for what happens anyway is none.
    #[test]
    fn every_parameter_that_is_not_offered_is_refused_by_its_name() {
        let endpoints = [
            Endpoint::Chat,
            Endpoint::Completion,
            Endpoint::Tokenize,
            Endpoint::Detokenize,
            Endpoint::Messages,
            Endpoint::Responses,
            Endpoint::Embeddings,
            Endpoint::Decisions,
        ];
        let mut refused = 0;
        for endpoint in endpoints {
            for (name, standing) in rows(endpoint) {
                let (bad, harmless) = match standing {
                    Standing::Works => continue,
                    Standing::Elsewhere | Standing::NotOffered(Harmless::NullOnly) => {
                        ("{}", "null".to_owned())
                    }
                    Standing::NotOffered(Harmless::Bool(harmless)) => {
                        (if *harmless { "false" } else { "true" }, harmless.to_string())
                    }
                    Standing::NotOffered(Harmless::EmptyList) => ("[1]", "[]".to_owned()),
                    Standing::NotOffered(Harmless::Text(text)) => ("\"another\"", format!("{text:?}")),
                };
                let read = |value: &str| {
                    let body = format!(r#"{{"{name}":{value}}}"#);
                    check(body.as_bytes(), endpoint, UnknownFields::Ignore)
                };
                let error = read(bad).unwrap_err();
                assert_eq!(error.status, 400, "{endpoint:?} {name}");
                assert_eq!(error.param.as_deref(), Some(*name), "{endpoint:?}");
                assert_eq!(error.code, Some("unsupported_parameter"), "{endpoint:?} {name}");
                assert_eq!(read(&harmless), Ok(()), "{endpoint:?} {name}");
                refused += 1;
            }
        }
        assert!(refused > 60, "{refused}");
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        assert_eq!(message(r#"{"seed":1,"seed":2}"#), "seed: is given twice");
    }

    #[test]
    fn no_name_is_listed_twice() {
        for (index, (name, _, _)) in PARAMETERS.iter().enumerate() {
            assert!(
                PARAMETERS[index + 1..].iter().all(|(other, _, _)| other != name),
                "{name}"
            );
        }
    }
}
