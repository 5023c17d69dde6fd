//! What the small JSON files beside the tokenizer say.

use serde_json::{Map, Value};
use vlinders_types::TokenId;

use crate::{TextError, TextFiles};

/// How a model's makers advise to draw tokens; none where they say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefaultSampling {
    /// 0 when the makers advise not to sample.
    pub temperature: Option<f32>,
    /// Above 0, at most 1.
    pub top_p: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
}

/// The chat templates' sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct TemplateSources {
    pub(crate) default: Option<String>,
    /// Used instead when the request brings tools.
    pub(crate) tool_use: Option<String>,
}

impl TemplateSources {
    /// Both, the one for tools first.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &str> {
        [&self.tool_use, &self.default]
            .into_iter()
            .flatten()
            .map(String::as_str)
    }
}

/// All settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) eos_ids: Vec<TokenId>,
    pub(crate) bos_id: Option<TokenId>,
    /// `bos_token`, `eos_token` and their like, by name, as the template sees them.
    pub(crate) special_tokens: Map<String, Value>,
    pub(crate) sampling: DefaultSampling,
    pub(crate) templates: TemplateSources,
}

impl Settings {
    /// `token_id` looks a token up in the tokenizer.
    pub(crate) fn read(
        files: &TextFiles<'_>,
        token_id: impl Fn(&str) -> Option<TokenId>,
    ) -> Result<Self, TextError> {
        let tokenizer = parse("tokenizer_config.json", files.tokenizer_config)?;
        let generation = parse("generation_config.json", files.generation_config)?;
        let config = parse("config.json", files.config)?;
        let special_tokens = special_tokens(&tokenizer);
        let named = |name: &str| {
            special_tokens
                .get(name)
                .and_then(Value::as_str)
                .and_then(&token_id)
        };
        let mut eos_ids: Vec<TokenId> = named("eos_token").into_iter().collect();
        eos_ids.extend(id_list("generation_config.json", "eos_token_id", &generation)?);
        // Models of several kinds of input keep their language model's settings one level deeper.
        let inner = config.get("text_config").and_then(Value::as_object);
        for object in [Some(&config), inner].into_iter().flatten() {
            eos_ids.extend(id_list("config.json", "eos_token_id", object)?);
        }
        eos_ids.sort_unstable();
        eos_ids.dedup();
        Ok(Self {
            eos_ids,
            bos_id: named("bos_token"),
            sampling: read_sampling(&generation)?,
            templates: read_templates(&tokenizer, files.chat_template_jinja)?,
            special_tokens,
        })
    }

    pub(crate) fn bos_text(&self) -> Option<&str> {
        self.special_tokens.get("bos_token").and_then(Value::as_str)
    }
}

fn parse(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TextError> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|error| TextError::File {
        file,
        reason: error.to_string(),
    })
}

/// Each `*_token` that is a text, or an object that says more about one.
fn special_tokens(tokenizer: &Map<String, Value>) -> Map<String, Value> {
    const NAMES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let mut tokens = Map::new();
    for name in NAMES {
        let token = match tokenizer.get(name) {
            Some(Value::Object(object)) => object.get("content"),
            other => other,
        };
        if let Some(text) = token.and_then(Value::as_str) {
            tokens.insert(name.to_owned(), Value::from(text));
        }
    }
    tokens
}

/// One id, a list of ids, or nothing.
fn id_list(file: &'static str, field: &str, object: &Map<String, Value>) -> Result<Vec<TokenId>, TextError> {
    let ids: Vec<&Value> = match object.get(field) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one) => vec![one],
    };
    let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
    let fault = || TextError::File {
        file,
        reason: format!("{field} must be a token id or a list of them"),
    };
    ids.into_iter().map(|value| id(value).ok_or_else(fault)).collect()
}

fn read_sampling(generation: &Map<String, Value>) -> Result<DefaultSampling, TextError> {
    let number = |field: &str, is_good: fn(f32) -> bool| match generation.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            #[expect(clippy::cast_possible_truncation, reason = "sampling is computed in f32")]
            let value = value
                .as_f64()
                .map(|value| value as f32)
                .filter(|value| is_good(*value));
            let reason = || format!("{field} is out of its range");
            value.map(Some).ok_or_else(|| TextError::File {
                file: "generation_config.json",
                reason: reason(),
            })
        }
    };
    let mut sampling = DefaultSampling {
        temperature: number("temperature", |value| (0.0..=100.0).contains(&value))?,
        top_p: number("top_p", |value| value > 0.0 && value <= 1.0)?,
        // Some files say -1 for "all".
        top_k: number("top_k", |value| value.abs() < 1e7)?.map(|value| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked and clamped"
            )]
            let top_k = value.max(0.0) as u32;
            top_k
        }),
        min_p: number("min_p", |value| (0.0..=1.0).contains(&value))?,
        repetition_penalty: number("repetition_penalty", |value| value > 0.0 && value <= 100.0)?,
    };
    if generation.get("do_sample") == Some(&Value::Bool(false)) {
        sampling.temperature = Some(0.0);
    }
    Ok(sampling)
}

fn read_templates(
    tokenizer: &Map<String, Value>,
    jinja_file: Option<&str>,
) -> Result<TemplateSources, TextError> {
    if let Some(source) = jinja_file {
        return Ok(TemplateSources {
            default: Some(source.to_owned()),
            tool_use: None,
        });
    }
    let fault = || TextError::File {
        file: "tokenizer_config.json",
        reason: "chat_template must be a text or a list of {name, template}".to_owned(),
    };
    match tokenizer.get("chat_template") {
        None | Some(Value::Null) => Ok(TemplateSources::default()),
        Some(Value::String(source)) => Ok(TemplateSources {
            default: Some(source.clone()),
            tool_use: None,
        }),
        Some(Value::Array(list)) => {
            let mut sources = TemplateSources::default();
            for entry in list {
                let name = entry.get("name").and_then(Value::as_str).ok_or_else(fault)?;
                let source = entry.get("template").and_then(Value::as_str).ok_or_else(fault)?;
                match name {
                    "default" => sources.default = Some(source.to_owned()),
                    "tool_use" => sources.tool_use = Some(source.to_owned()),
                    // Others are for uses this server does not offer.
                    _ => {}
                }
            }
            Ok(sources)
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(tokenizer: &Value, generation: &Value, config: &Value) -> Result<Settings, TextError> {
        let [tokenizer, generation, config] = [tokenizer, generation, config].map(Value::to_string);
        let files = TextFiles {
            tokenizer_config: Some(tokenizer.as_bytes()),
            generation_config: Some(generation.as_bytes()),
            config: Some(config.as_bytes()),
            ..TextFiles::default()
        };
        Settings::read(&files, |token| (token == "</s>").then_some(2))
    }

    #[test]
    fn ends_of_sequence_are_gathered_from_all_files() {
        let settings = read(
            &json!({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}),
            &json!({"eos_token_id": [7, 9]}),
            &json!({"eos_token_id": 7, "text_config": {"eos_token_id": 11}}),
        )
        .unwrap();
        assert_eq!(settings.eos_ids, [2, 7, 9, 11]);
        assert_eq!(settings.bos_text(), Some("<s>"));
    }

    #[test]
    fn the_makers_sampling_is_read_and_checked() {
        let generation =
            json!({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": null});
        let settings = read(&json!({}), &generation, &json!({})).unwrap();
        let expected = DefaultSampling {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            min_p: None,
            repetition_penalty: None,
        };
        assert_eq!(settings.sampling, expected);
        let greedy = json!({"do_sample": false, "temperature": 0.6, "top_k": -1});
        let settings = read(&json!({}), &greedy, &json!({})).unwrap();
        assert_eq!(
            (settings.sampling.temperature, settings.sampling.top_k),
            (Some(0.0), Some(0))
        );
        assert!(read(&json!({}), &json!({"top_p": 2}), &json!({})).is_err());
        assert!(read(&json!({}), &json!({"eos_token_id": [-1]}), &json!({})).is_err());
    }

    #[test]
    fn templates_come_as_text_or_as_a_list() {
        let list = json!({"chat_template": [
            {"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}
        ]});
        let settings = read(&list, &json!({}), &json!({})).unwrap();
        assert_eq!(settings.templates.default.as_deref(), Some("d"));
        assert_eq!(settings.templates.tool_use.as_deref(), Some("t"));
        assert!(read(&json!({"chat_template": 1}), &json!({}), &json!({})).is_err());
    }
}
