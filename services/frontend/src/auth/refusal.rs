//! What somebody is told who does not come in. The texts are fixed: they repeat nothing of what was sent.

use vlinders_openai_api::ApiError;

const INVALID: &str = "invalid_api_key";
/// Seconds after which the database may be back.
const RETRY_S: u32 = 1;

pub(super) fn missing() -> ApiError {
    let text = "no API key was given; send it in the header `authorization: Bearer KEY` or `x-api-key: KEY`";
    ApiError::new(401, INVALID, text)
}

pub(super) fn ambiguous() -> ApiError {
    ApiError::new(
        401,
        INVALID,
        "the API key is given twice; send one header `authorization` or `x-api-key`",
    )
}

pub(super) fn unknown_key() -> ApiError {
    ApiError::new(
        401,
        INVALID,
        "the API key is not valid: it is unknown, has expired or was revoked",
    )
}

/// Why exactly is for whoever signed it to find out: a stranger learns nothing from trying.
pub(super) fn bad_token() -> ApiError {
    let text =
        "the token is not valid: its signature, key, dates, audience, issuer or claims are not accepted here";
    ApiError::new(401, INVALID, text)
}

pub(super) fn unavailable() -> ApiError {
    let text = "API keys cannot be checked now; try again soon";
    ApiError::new(503, "keys_unavailable", text).with_retry_after(RETRY_S)
}
