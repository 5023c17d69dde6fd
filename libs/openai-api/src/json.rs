//! Reading a body: depth first, then names, then values.

use serde::de::DeserializeOwned;

use crate::{ApiError, LIMITS};

/// Refuses JSON nested deeper than the limit, in one pass that neither recurses nor allocates. Whether it *is* JSON
/// is for the parser to say.
pub(crate) fn check_depth(body: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > LIMITS.json_depth {
                    let max = LIMITS.json_depth;
                    let text = format!("the body is nested deeper than {max} lists and objects");
                    return Err(ApiError::new(400, "invalid_json", text));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            (true | false, _) => {}
        }
    }
    Ok(())
}

/// Reads a value; an error names the field by its path.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        api_error(&path, &error.into_inner())
    })
}

/// Turns the parser's error into ours. `path` is `.` when it is about the whole body.
pub(crate) fn api_error(path: &str, error: &serde_json::Error) -> ApiError {
    let whole_body = path == "." || path == "?";
    match error.classify() {
        serde_json::error::Category::Data => {
            let text = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            let text = text.strip_suffix(&place).unwrap_or(&text);
            if whole_body {
                ApiError::new(400, "invalid_value", format!("the body: {text}"))
            } else {
                ApiError::invalid(path, text)
            }
        }
        serde_json::error::Category::Io
        | serde_json::error::Category::Syntax
        | serde_json::error::Category::Eof => {
            let text = format!("the body is not valid JSON: {error}");
            let error = ApiError::new(400, "invalid_json", text);
            if whole_body {
                error
            } else {
                ApiError {
                    param: Some(path.to_owned()),
                    ..error
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> Vec<u8> {
        [vec![b'['; depth], vec![b']'; depth]].concat()
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        assert!(check_depth(&nested(LIMITS.json_depth)).is_ok());
        assert_eq!(
            check_depth(&nested(LIMITS.json_depth + 1)).unwrap_err().status,
            400
        );
        assert_eq!(
            check_depth(&nested(100_000)).unwrap_err().code,
            Some("invalid_json")
        );
    }

    #[test]
    fn brackets_inside_strings_do_not_count() {
        let text = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(1000));
        assert!(check_depth(text.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted_or_refused(body: Vec<u8>) {
            let _ = check_depth(&body);
        }
    }
}
