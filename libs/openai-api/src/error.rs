//! The one error shape: `{"error":{"message","type","param","code"}}`.

use serde::Serialize;

use crate::LIMITS;

/// An answer other than 2xx. `message` is for the caller's eyes; nothing of our insides belongs in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// What is wrong, which field, what to do.
    pub message: String,
    /// The field it is about.
    pub param: Option<String>,
    /// A fixed word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    /// An error with a status and a fixed text.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: clip(message.into()),
            param: None,
            code: Some(code),
            retry_after_s: None,
        }
    }

    /// 400 about one field. The text follows the field's name.
    #[must_use]
    pub fn invalid(param: &str, what: impl std::fmt::Display) -> Self {
        Self {
            status: 400,
            message: clip(format!("{param}: {what}")),
            param: Some(clip(param.to_owned())),
            code: Some("invalid_value"),
            retry_after_s: None,
        }
    }

    /// 400 for a parameter that exists elsewhere but is not offered here.
    #[must_use]
    pub fn not_offered(param: &str, what: impl std::fmt::Display) -> Self {
        Self {
            code: Some("unsupported_parameter"),
            ..Self::invalid(param, what)
        }
    }

    /// The same error with another code.
    #[must_use]
    pub fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// The same error with an invitation to try again.
    #[must_use]
    pub fn with_retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after_s: Some(seconds),
            ..self
        }
    }

    /// The `type` of the error shape, which follows from the status.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.status {
            403 => "permission_error",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The JSON shape.
    #[must_use]
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            error: ErrorFields {
                message: &self.message,
                kind: self.kind(),
                param: self.param.as_deref(),
                code: self.code,
            },
        }
    }
}

/// What goes over the wire for an [`ApiError`].
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorFields<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

/// Error texts quote the client; a body of 10 MiB must not come back as an error of 10 MiB.
fn clip(mut text: String) -> String {
    if text.len() > LIMITS.error_bytes {
        let end = text.floor_char_boundary(LIMITS.error_bytes);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_input_is_cut_at_a_character() {
        let error = ApiError::invalid("stop", "é".repeat(10_000));
        assert!(error.message.len() <= LIMITS.error_bytes + "…".len());
        assert!(error.message.ends_with('…'));
    }

    #[test]
    fn the_shape_has_four_fields_and_null_for_none() {
        let error = ApiError {
            code: None,
            ..ApiError::new(404, "x", "no such route")
        };
        assert_eq!(
            serde_json::to_string(&error.body()).unwrap(),
            r#"{"error":{"message":"no such route","type":"invalid_request_error","param":null,"code":null}}"#
        );
    }
}
