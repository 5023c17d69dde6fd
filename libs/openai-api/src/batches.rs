//! Files and batches: what is asked for, the lines of a batch, and how both are shown.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::names::{self, Endpoint};
use crate::raw::label;
use crate::{ApiError, LIMITS, UnknownFields, json};

/// Where lines of a batch may go.
pub const BATCH_ENDPOINTS: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/decisions",
];
/// The one window there is.
pub const BATCH_WINDOW: &str = "24h";
/// Seconds that a file may be kept: an hour to thirty days.
pub(crate) const EXPIRY_S: (u64, u64) = (3_600, 2_592_000);
/// Bytes of a line beside its body.
const LINE_FRAME_BYTES: usize = 4 * 1024;

/// A checked request for a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRequest {
    /// The file with its lines.
    pub input_file: String,
    /// Where they go: one of [`BATCH_ENDPOINTS`].
    pub endpoint: &'static str,
    /// The owner's own words, as JSON.
    pub metadata: Option<String>,
    /// How long its files are kept, in seconds.
    pub output_expires_s: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawBatch {
    input_file_id: Option<String>,
    endpoint: Option<String>,
    completion_window: Option<String>,
    metadata: Option<Map<String, Value>>,
    output_expires_after: Option<RawExpiry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpiry {
    anchor: String,
    seconds: u64,
}

/// Reads and checks a body of `/v1/batches`.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_batch(body: &[u8], unknown: UnknownFields) -> Result<BatchRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Batches, unknown)?;
    let raw: RawBatch = json::read(body)?;
    let needed = |name: &str, value: Option<String>| {
        let value = label(name, value)?.filter(|text| !text.is_empty());
        value.ok_or_else(|| ApiError::invalid(name, "this field is required"))
    };
    let input_file = needed("input_file_id", raw.input_file_id)?;
    let asked = needed("endpoint", raw.endpoint)?;
    let endpoint = BATCH_ENDPOINTS.into_iter().find(|known| *known == asked);
    let endpoint = endpoint.ok_or_else(|| {
        let text = format!("must be one of {}", BATCH_ENDPOINTS.join(", "));
        ApiError::invalid("endpoint", text)
    })?;
    if needed("completion_window", raw.completion_window)? != BATCH_WINDOW {
        return Err(ApiError::invalid("completion_window", "must be 24h"));
    }
    let output_expires_s = match raw.output_expires_after {
        None => None,
        Some(RawExpiry { anchor, seconds }) => Some(expiry("output_expires_after", &anchor, seconds)?),
    };
    Ok(BatchRequest {
        input_file,
        endpoint,
        metadata: raw.metadata.map(metadata).transpose()?,
        output_expires_s,
    })
}

/// How many seconds something is kept after it was made.
///
/// # Errors
/// When it is not counted from then, or too few or too many.
pub fn expiry(name: &str, anchor: &str, seconds: u64) -> Result<u64, ApiError> {
    let (least, most) = EXPIRY_S;
    if anchor != "created_at" {
        return Err(ApiError::invalid(&format!("{name}.anchor"), "must be created_at"));
    }
    if !(least..=most).contains(&seconds) {
        let text = format!("must be from {least} to {most}");
        return Err(ApiError::invalid(&format!("{name}.seconds"), text));
    }
    Ok(seconds)
}

fn metadata(given: Map<String, Value>) -> Result<String, ApiError> {
    if given.len() > LIMITS.metadata_entries {
        let text = format!("has more than {} entries", LIMITS.metadata_entries);
        return Err(ApiError::invalid("metadata", text));
    }
    for (name, value) in &given {
        let fits = |text: &str| text.len() <= LIMITS.name_bytes;
        if !fits(name) || !value.as_str().is_some_and(fits) {
            let text = format!(
                "holds texts of at most {} bytes under such names",
                LIMITS.name_bytes
            );
            return Err(ApiError::invalid("metadata", text));
        }
    }
    Ok(Value::Object(given).to_string())
}

/// A checked line of a batch.
#[derive(Clone, Debug)]
pub struct BatchLine {
    /// The owner's name for it.
    pub custom_id: String,
    /// What is sent to the endpoint.
    pub body: Box<RawValue>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchFault {
    /// A fixed word for programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The field it is about.
    pub param: Option<&'static str>,
}

impl BatchFault {
    /// A fault of one field, or of a whole line.
    #[must_use]
    pub fn new(code: &'static str, param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param,
        }
    }

    /// As it is shown in a batch. `line` counts from 1.
    #[must_use]
    pub fn shown(&self, line: Option<u64>) -> Value {
        json!({"code": self.code, "line": line, "message": self.message, "param": self.param})
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    body: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Streamed {
    #[serde(default)]
    stream: Option<bool>,
}

/// Reads a line. What it asks for is checked when it is answered; that its answer is one line, here.
///
/// # Errors
/// What is wrong with it.
pub fn parse_batch_line(line: &[u8], endpoint: &str) -> Result<BatchLine, BatchFault> {
    if line.len() > LIMITS.body_bytes + LINE_FRAME_BYTES {
        let text = format!("the line is longer than {} MiB", LIMITS.body_bytes >> 20);
        return Err(BatchFault::new("line_too_long", None, text));
    }
    let raw: RawLine = serde_json::from_slice(line).map_err(|error| {
        let text = format!("the line is no JSON object of custom_id, method, url and body: {error}");
        BatchFault::new(
            "invalid_json_line",
            None,
            text.chars().take(LIMITS.error_bytes).collect::<String>(),
        )
    })?;
    let missing = |name| {
        BatchFault::new(
            "missing_required_parameter",
            Some(name),
            format!("{name} is missing"),
        )
    };
    let custom_id = raw.custom_id.ok_or_else(|| missing("custom_id"))?;
    if custom_id.is_empty() || custom_id.len() > LIMITS.name_bytes {
        let text = format!("custom_id must have 1 to {} bytes", LIMITS.name_bytes);
        return Err(BatchFault::new("invalid_custom_id", Some("custom_id"), text));
    }
    if raw.method.ok_or_else(|| missing("method"))? != "POST" {
        return Err(BatchFault::new(
            "invalid_method",
            Some("method"),
            "method must be POST",
        ));
    }
    if raw.url.ok_or_else(|| missing("url"))? != endpoint {
        let text = format!("url must be the batch's endpoint, {endpoint}");
        return Err(BatchFault::new("mismatched_url", Some("url"), text));
    }
    let body = raw.body.ok_or_else(|| missing("body"))?;
    let is_object = body.get().trim_start().starts_with('{');
    match serde_json::from_str::<Streamed>(body.get()) {
        Ok(Streamed { stream: Some(true) }) => {
            let text = "a batch has no streams; leave stream out of the body";
            Err(BatchFault::new("invalid_body", Some("body.stream"), text))
        }
        Ok(_) if is_object => Ok(BatchLine { custom_id, body }),
        Ok(_) | Err(_) => {
            let text = "body must be a JSON object for the endpoint";
            Err(BatchFault::new("invalid_body", Some("body"), text))
        }
    }
}

/// A file as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct FileObject<'a> {
    /// Its id.
    pub id: &'a str,
    /// Of its content.
    pub bytes: u64,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    /// As its owner calls it.
    pub filename: &'a str,
    /// What it is for.
    pub purpose: &'a str,
}

impl FileObject<'_> {
    /// As JSON.
    #[must_use]
    pub fn shown(&self) -> Value {
        json!({
            "id": self.id, "object": "file", "bytes": self.bytes, "created_at": self.created_ms / 1000,
            "expires_at": self.expires_ms / 1000, "filename": self.filename, "purpose": self.purpose,
            "status": "processed", "status_details": null,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "/v1/chat/completions";

    fn read(body: &str) -> Result<BatchRequest, String> {
        parse_batch(body.as_bytes(), UnknownFields::Refuse).map_err(|error| error.message)
    }

    #[test]
    fn a_batch_is_read_or_refused_by_name() {
        let good = r#"{"input_file_id":"file-1","endpoint":"/v1/chat/completions","completion_window":"24h",
            "metadata":{"a":"b"},"output_expires_after":{"anchor":"created_at","seconds":3600}}"#;
        let request = read(good).unwrap();
        assert_eq!((request.endpoint, request.output_expires_s), (CHAT, Some(3600)));
        assert_eq!(request.metadata.as_deref(), Some(r#"{"a":"b"}"#));
        for (from, to, name) in [
            (r#""file-1""#, r#""""#, "input_file_id"),
            (CHAT, "/v1/moderations", "endpoint"),
            (r#""24h""#, r#""1h""#, "completion_window"),
            (r#""b""#, "1", "metadata"),
            ("created_at", "last_active_at", "output_expires_after.anchor"),
            ("3600", "60", "output_expires_after.seconds"),
            (r#""metadata""#, r#""color""#, "color"),
        ] {
            let text = read(&good.replace(from, to)).unwrap_err();
            assert!(text.starts_with(name), "{text}");
        }
    }

    #[test]
    fn a_line_is_read_or_its_fault_is_named() {
        let good = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}"#;
        let line = parse_batch_line(good.as_bytes(), CHAT).unwrap();
        assert_eq!(
            (line.custom_id.as_str(), line.body.get()),
            ("a", r#"{"model":"m"}"#)
        );
        for (from, to, code, param) in [
            (r#""a""#, r#""""#, "invalid_custom_id", Some("custom_id")),
            (
                r#""custom_id":"a","#,
                "",
                "missing_required_parameter",
                Some("custom_id"),
            ),
            ("POST", "GET", "invalid_method", Some("method")),
            (CHAT, "/v1/embeddings", "mismatched_url", Some("url")),
            (r#"{"model":"m"}"#, "[]", "invalid_body", Some("body")),
            (
                r#""model":"m""#,
                r#""stream":true"#,
                "invalid_body",
                Some("body.stream"),
            ),
            (r#""method""#, r#""methods""#, "invalid_json_line", None),
            ("}}", "}", "invalid_json_line", None),
        ] {
            let fault = parse_batch_line(good.replace(from, to).as_bytes(), CHAT).unwrap_err();
            assert_eq!((fault.code, fault.param), (code, param), "{fault:?}");
        }
        let fault =
            parse_batch_line(&vec![b' '; LIMITS.body_bytes + LINE_FRAME_BYTES + 1], CHAT).unwrap_err();
        assert_eq!(fault.code, "line_too_long");
    }
}
