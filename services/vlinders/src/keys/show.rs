//! Keys as lines, for people and for programs.

use serde_json::{Value, json};
use vlinders_ledger::{ApiKey, KeySecret};
use vlinders_service_kit::rfc3339;

/// A key whose secret is shown this once.
pub(super) fn secret(key: &ApiKey, secret: &KeySecret, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let mut line = line(key);
        line["secret"] = secret.reveal().into();
        println!("{line}");
        return Ok(());
    }
    println!("{}", secret.reveal());
    eprintln!(
        "key {} of tenant {}: this is its secret, and it is not shown again",
        key.id, key.rules.tenant
    );
    Ok(())
}

pub(super) fn all(keys: &[ApiKey], now_ms: u64, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        for key in keys {
            println!("{}", line(key));
        }
        return Ok(());
    }
    println!(
        "{:<24} {:<12} {:<9} {:<16} {:<16} {:<20} {:<24}",
        "id", "prefix", "state", "tenant", "name", "scopes", "last used"
    );
    for key in keys {
        let state = match (key.revoked_ms, key.is_valid_at(now_ms)) {
            (Some(_), _) => "revoked",
            (None, true) => "valid",
            (None, false) => "expired",
        };
        println!(
            "{:<24} {:<12} {state:<9} {:<16} {:<16} {:<20} {:<24}",
            key.id.as_str(),
            key.prefix,
            key.rules.tenant.as_str(),
            key.rules.name,
            key.rules.scopes.to_string(),
            key.last_used_ms.map_or_else(|| "-".to_owned(), rfc3339)
        );
    }
    Ok(())
}

fn line(key: &ApiKey) -> Value {
    let rules = &key.rules;
    let limits = &rules.limits;
    json!({
        "id": key.id.as_str(),
        "prefix": key.prefix,
        "name": rules.name,
        "tenant": rules.tenant.as_str(),
        "scopes": rules.scopes.to_string(),
        "models": rules.models,
        "is_lenient": rules.is_lenient,
        "max_priority": rules.max_priority,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent_streams": limits.concurrent_streams,
        "daily_tokens": limits.daily.tokens,
        "monthly_tokens": limits.monthly.tokens,
        "daily_nanos": limits.daily.nanos,
        "monthly_nanos": limits.monthly.nanos,
        "created_ms": key.created_ms,
        "expires_ms": rules.expires_ms,
        "revoked_ms": key.revoked_ms,
        "last_used_ms": key.last_used_ms,
    })
}
