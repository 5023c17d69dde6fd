//! The rules of a key as JSON: what operators send and what they are told.

use serde_json::{Map, Value, json};
use vlinders_ledger::{ApiKey, KeyLimits, KeyRules, Scope, Scopes};
use vlinders_openai_api::ApiError;
use vlinders_types::TenantId;

/// Names that people give.
const NAME_BYTES: usize = 128;
const MODELS: usize = 100;
/// The most that databases and limiters count exactly.
pub(super) const MOST: u64 = 1 << 53;

/// A body as an object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) | Err(_) => Err(ApiError::new(
            400,
            "invalid_json",
            "the body must be a JSON object",
        )),
    }
}

/// Changes rules by these fields. What is not named stays, and null takes away.
pub(super) fn change(rules: &mut KeyRules, fields: &Map<String, Value>) -> Result<(), ApiError> {
    for (field, value) in fields {
        match field.as_str() {
            "name" => rules.name = plain(field, value)?,
            "tenant" => rules.tenant = TenantId::new(&plain(field, value)?),
            "scopes" => rules.scopes = scopes(field, value)?,
            "models" => rules.models = models(field, value)?,
            "is_lenient" => {
                let flag = value.as_bool();
                rules.is_lenient = flag.ok_or_else(|| ApiError::invalid(field, "must be true or false"))?;
            }
            "max_priority" => rules.max_priority = number(field, value, i32::MIN.into()..=i32::MAX.into())?,
            "expires_ms" => rules.expires_ms = count(field, value)?,
            other => change_limit(&mut rules.limits, other, value)?,
        }
    }
    Ok(())
}

fn change_limit(limits: &mut KeyLimits, field: &str, value: &Value) -> Result<(), ApiError> {
    match field {
        "requests_per_minute" => limits.requests_per_minute = number(field, value, 0..=u32::MAX.into())?,
        "concurrent_streams" => limits.concurrent_streams = number(field, value, 0..=u32::MAX.into())?,
        "tokens_per_minute" => limits.tokens_per_minute = count(field, value)?,
        "daily_tokens" => limits.daily.tokens = count(field, value)?,
        "daily_nanos" => limits.daily.nanos = count(field, value)?,
        "monthly_tokens" => limits.monthly.tokens = count(field, value)?,
        "monthly_nanos" => limits.monthly.nanos = count(field, value)?,
        other => {
            return Err(
                ApiError::invalid(other, "is no rule of a key; /openapi.json has them")
                    .with_code("unknown_parameter"),
            );
        }
    }
    Ok(())
}

fn plain(field: &str, value: &Value) -> Result<String, ApiError> {
    let text = value
        .as_str()
        .filter(|text| !text.is_empty() && text.len() <= NAME_BYTES && !text.chars().any(char::is_control));
    let wrong = || {
        ApiError::invalid(
            field,
            format!("must be a text of 1 to {NAME_BYTES} bytes in one line"),
        )
    };
    text.map(str::to_owned).ok_or_else(wrong)
}

fn texts<'a>(field: &str, value: &'a Value) -> Result<Vec<&'a str>, ApiError> {
    let list = value.as_array().filter(|list| list.len() <= MODELS);
    let texts = list.and_then(|list| list.iter().map(Value::as_str).collect());
    texts.ok_or_else(|| ApiError::invalid(field, format!("must be a list of {MODELS} texts at most")))
}

fn scopes(field: &str, value: &Value) -> Result<Scopes, ApiError> {
    let names = texts(field, value)?.join(",");
    names.parse().map_err(|error| ApiError::invalid(field, error))
}

fn models(field: &str, value: &Value) -> Result<Option<Vec<String>>, ApiError> {
    if value.is_null() {
        return Ok(None);
    }
    let names = texts(field, value)?.into_iter();
    let names = names.map(|name| plain(field, &Value::from(name)));
    names.collect::<Result<_, _>>().map(Some)
}

fn count(field: &str, value: &Value) -> Result<Option<u64>, ApiError> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().filter(|number| *number <= MOST);
    let wrong = || ApiError::invalid(field, format!("must be a whole number from 0 to {MOST}, or null"));
    number.map(Some).ok_or_else(wrong)
}

fn number<T: TryFrom<i64>>(
    field: &str,
    value: &Value,
    range: std::ops::RangeInclusive<i64>,
) -> Result<Option<T>, ApiError> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_i64().filter(|number| range.contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    let wrong = || {
        let (least, most) = (range.start(), range.end());
        ApiError::invalid(
            field,
            format!("must be a whole number from {least} to {most}, or null"),
        )
    };
    number.map(Some).ok_or_else(wrong)
}

/// A key as it may be shown: everything but its secret.
pub(super) fn shown(key: &ApiKey, now_ms: u64) -> Value {
    let rules = &key.rules;
    let limits = &rules.limits;
    let scopes = Scope::ALL.into_iter().filter(|scope| rules.scopes.has(*scope));
    let state = match (key.revoked_ms, key.is_valid_at(now_ms)) {
        (Some(_), _) => "revoked",
        (None, true) => "valid",
        (None, false) => "expired",
    };
    json!({
        "id": key.id.as_str(),
        "object": "api_key",
        "prefix": key.prefix,
        "state": state,
        "name": rules.name,
        "tenant": rules.tenant.as_str(),
        "scopes": Vec::from_iter(scopes.map(Scope::name)),
        "models": rules.models,
        "is_lenient": rules.is_lenient,
        "max_priority": rules.max_priority,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent_streams": limits.concurrent_streams,
        "daily_tokens": limits.daily.tokens,
        "daily_nanos": limits.daily.nanos,
        "monthly_tokens": limits.monthly.tokens,
        "monthly_nanos": limits.monthly.nanos,
        "created_ms": key.created_ms,
        "expires_ms": rules.expires_ms,
        "revoked_ms": key.revoked_ms,
        "last_used_ms": key.last_used_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(fields: &Value) -> Result<KeyRules, ApiError> {
        let mut rules = KeyRules::new("n", TenantId::new("t"));
        rules.limits.daily.tokens = Some(5);
        rules.max_priority = Some(1);
        change(&mut rules, fields.as_object().unwrap())?;
        Ok(rules)
    }

    #[test]
    fn what_is_not_named_stays_and_null_takes_away() {
        let rules = changed(&json!({
            "scopes": ["usage", "admin"], "models": ["a/b"], "max_priority": null, "monthly_nanos": 7,
            "requests_per_minute": 3, "is_lenient": true,
        }));
        let rules = rules.unwrap();
        assert_eq!(rules.limits.daily.tokens, Some(5));
        assert_eq!((rules.max_priority, rules.limits.monthly.nanos), (None, Some(7)));
        assert_eq!(rules.scopes.to_string(), "usage,admin");
        assert_eq!(
            changed(&json!({"daily_tokens": null}))
                .unwrap()
                .limits
                .daily
                .tokens,
            None
        );
        assert_eq!(changed(&json!({"models": null})).unwrap().models, None);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (fields, param) in [
            (json!({"name": ""}), "name"),
            (json!({"tenant": "a\nb"}), "tenant"),
            (json!({"scopes": ["root"]}), "scopes"),
            (json!({"scopes": "admin"}), "scopes"),
            (json!({"models": [7]}), "models"),
            (json!({"models": ["a\nb"]}), "models"),
            (json!({"is_lenient": 1}), "is_lenient"),
            (json!({"max_priority": 2_147_483_648_u64}), "max_priority"),
            (json!({"concurrent_streams": -1}), "concurrent_streams"),
            (json!({"daily_nanos": 1.5}), "daily_nanos"),
            (json!({"expires_ms": MOST + 1}), "expires_ms"),
            (json!({"owner": "me"}), "owner"),
        ] {
            let error = changed(&fields).unwrap_err();
            assert_eq!(
                (error.status, error.param.as_deref()),
                (400, Some(param)),
                "{fields}"
            );
        }
    }
}
