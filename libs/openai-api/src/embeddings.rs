//! `/v1/embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use crate::chat::required_model;
use crate::names::{self, Endpoint};
use crate::raw::{RawRequest, count_in};
use crate::{ApiError, LIMITS, Options, Prompt, UnknownFields, json, options};

/// Texts to make vectors of.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingRequest {
    /// The model as the client names it.
    pub model: String,
    /// At least one, none of them empty.
    pub inputs: Vec<Prompt>,
    /// Keep this many elements of each vector.
    pub dimensions: Option<u32>,
    /// How the vectors are written.
    pub encoding: VectorEncoding,
    /// Priority and cache salt.
    pub options: Options,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VectorEncoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Its elements as 32-bit numbers, little endian, in base64.
    Base64,
}

/// Reads and checks a body.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_embeddings(body: &[u8], unknown: UnknownFields) -> Result<EmbeddingRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Embeddings, unknown)?;
    let mut raw: RawRequest = json::read(body)?;
    let model = required_model(&mut raw)?;
    let Some(inputs) = raw.input.take() else {
        return Err(ApiError::invalid("input", "this field is required"));
    };
    let encoding = match raw.encoding_format.as_deref() {
        None | Some("float") => VectorEncoding::Float,
        Some("base64") => VectorEncoding::Base64,
        Some(_) => {
            return Err(ApiError::invalid("encoding_format", "must be float or base64"));
        }
    };
    Ok(EmbeddingRequest {
        model,
        inputs: inputs.0,
        dimensions: count_in("dimensions", raw.dimensions, LIMITS.dimensions)?,
        encoding,
        options: options::read(&mut raw)?,
    })
}

/// The vectors, in the order of the inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingAnswer {
    /// The model as the client named it.
    pub model: String,
    /// One for each input, of length 1.
    pub vectors: Vec<Vec<f32>>,
    /// How they are written.
    pub encoding: VectorEncoding,
    /// Tokens of all inputs.
    pub prompt_tokens: u32,
}

impl Serialize for EmbeddingAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            object: &'static str,
            data: Vec<Entry>,
            model: &'a str,
            usage: Usage,
        }
        #[derive(Serialize)]
        struct Usage {
            prompt_tokens: u32,
            total_tokens: u32,
        }
        let entry = |(index, vector): (usize, &Vec<f32>)| Entry {
            object: "embedding",
            index,
            embedding: match self.encoding {
                VectorEncoding::Float => Written::Float(vector.clone()),
                VectorEncoding::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|element| element.to_le_bytes()).collect();
                    Written::Base64(STANDARD.encode(bytes))
                }
            },
        };
        Whole {
            object: "list",
            data: self.vectors.iter().enumerate().map(entry).collect(),
            model: &self.model,
            usage: Usage {
                prompt_tokens: self.prompt_tokens,
                total_tokens: self.prompt_tokens,
            },
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
struct Entry {
    object: &'static str,
    index: usize,
    embedding: Written,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Float(Vec<f32>),
    Base64(String),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &serde_json::Value) -> Result<EmbeddingRequest, ApiError> {
        parse_embeddings(body.to_string().as_bytes(), UnknownFields::Refuse)
    }

    #[test]
    fn texts_and_tokens_alone_or_many_are_inputs() {
        let count = |input| read(&json!({"model": "m", "input": input})).map(|request| request.inputs.len());
        assert_eq!(count(json!("a")), Ok(1));
        assert_eq!(count(json!(["a", "b"])), Ok(2));
        assert_eq!(count(json!([1, 2, 3])), Ok(1));
        assert_eq!(count(json!([[1, 2], [3]])), Ok(2));
        assert_eq!(count(json!(vec!["a"; 2048])), Ok(2048));
    }

    #[test]
    fn what_cannot_become_vectors_is_refused_by_name() {
        for (body, param) in [
            (json!({"model": "m"}), "input"),
            (json!({"model": "m", "input": ""}), "input"),
            (json!({"model": "m", "input": []}), "input"),
            (json!({"model": "m", "input": ["a", ""]}), "input"),
            (json!({"model": "m", "input": [[]]}), "input"),
            (json!({"model": "m", "input": vec!["a"; 10_000]}), "input"),
            (json!({"model": "m", "input": "a", "dimensions": 0}), "dimensions"),
            (
                json!({"model": "m", "input": "a", "dimensions": 1.5}),
                "dimensions",
            ),
            (
                json!({"model": "m", "input": "a", "encoding_format": "int8"}),
                "encoding_format",
            ),
            (
                json!({"model": "m", "input": "a", "temperature": 1}),
                "temperature",
            ),
            (
                json!({"model": "m", "input": "a", "truncate_prompt_tokens": 5}),
                "truncate_prompt_tokens",
            ),
            (json!({"input": "a"}), "model"),
        ] {
            let error = read(&body).unwrap_err();
            assert_eq!(error.status, 400);
            let named = error.param.unwrap_or_default();
            assert!(named.starts_with(param), "{body}: {named}");
        }
    }

    #[test]
    fn a_vector_is_written_in_either_form() {
        let answer = |encoding| EmbeddingAnswer {
            model: "m".to_owned(),
            vectors: vec![vec![0.6, -0.8]],
            encoding,
            prompt_tokens: 3,
        };
        let data = |encoding| serde_json::to_value(answer(encoding)).unwrap()["data"].clone();
        assert_eq!(
            serde_json::to_string(&answer(VectorEncoding::Float)).unwrap(),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.6,-0.8]}],"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}"#
        );
        assert_eq!(data(VectorEncoding::Base64)[0]["embedding"], "mpkZP83MTL8=");
    }
}
