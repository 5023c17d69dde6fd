//! What is said to a database about keys, the same for every one. `mark` is what it writes before the number of a place.

use vlinders_types::KeyId;

use super::rows::COLUMNS;
use super::{KeyDigest, KeyRules, NewKey, NewSecret};
use crate::rows::as_sql;
use crate::selection::{Selection, Value};

/// A statement that grows with its values.
struct Draft {
    mark: char,
    values: Vec<Value>,
}

impl Draft {
    fn new(mark: char) -> Self {
        Self {
            mark,
            values: Vec::new(),
        }
    }

    /// A place for this value.
    fn place(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("{}{}", self.mark, self.values.len())
    }

    fn text(&mut self, text: &str) -> String {
        self.place(Value::Text(text.to_owned()))
    }

    fn number(&mut self, number: u64) -> String {
        self.place(Value::Number(as_sql(number)))
    }

    fn with(self, sql: String) -> Selection {
        Selection {
            sql,
            values: self.values,
        }
    }
}

pub(crate) fn insert(new: &NewKey, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let key = &new.key;
    let maybe = |number: Option<u64>| Value::MaybeNumber(number.map(as_sql));
    let mut places = vec![
        draft.text(key.id.as_str()),
        draft.text(&new.digest.to_text()),
        draft.place(Value::MaybeText(None)),
        draft.place(maybe(None)),
        draft.text(&key.prefix),
    ];
    places.extend(rules(&key.rules).map(|(_, value)| draft.place(value)));
    places.push(draft.number(key.created_ms));
    places.push(draft.place(maybe(key.revoked_ms)));
    places.push(draft.place(maybe(key.last_used_ms)));
    let places = places.join(", ");
    draft.with(format!("INSERT INTO api_keys ({COLUMNS}) VALUES ({places})"))
}

/// The columns an operator decides about, in the order of the table.
fn rules(rules: &KeyRules) -> [(&'static str, Value); 14] {
    let number = |number: Option<u64>| Value::MaybeNumber(number.map(as_sql));
    let limits = &rules.limits;
    [
        ("name", Value::Text(rules.name.clone())),
        ("tenant", Value::Text(rules.tenant.as_str().to_owned())),
        ("scopes", Value::Text(rules.scopes.to_string())),
        (
            "models",
            Value::MaybeText(rules.models.as_ref().map(|names| names.join("\n"))),
        ),
        ("is_lenient", Value::Flag(rules.is_lenient)),
        (
            "max_priority",
            Value::MaybeNumber(rules.max_priority.map(i64::from)),
        ),
        (
            "requests_per_minute",
            number(limits.requests_per_minute.map(u64::from)),
        ),
        ("tokens_per_minute", number(limits.tokens_per_minute)),
        (
            "concurrent_streams",
            number(limits.concurrent_streams.map(u64::from)),
        ),
        ("daily_tokens", number(limits.daily.tokens)),
        ("daily_nanos", number(limits.daily.nanos)),
        ("monthly_tokens", number(limits.monthly.tokens)),
        ("monthly_nanos", number(limits.monthly.nanos)),
        ("expires_ms", number(rules.expires_ms)),
    ]
}

pub(crate) fn find(digest: &KeyDigest, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let hash = draft.text(&digest.to_text());
    let again = draft.text(&digest.to_text());
    draft.with(format!(
        "SELECT {COLUMNS} FROM api_keys WHERE hash = {hash} OR previous_hash = {again}"
    ))
}

pub(crate) fn one(id: &KeyId, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let id = draft.text(id.as_str());
    draft.with(format!("SELECT {COLUMNS} FROM api_keys WHERE id = {id}"))
}

pub(crate) fn list(mark: char) -> Selection {
    Draft::new(mark).with(format!("SELECT {COLUMNS} FROM api_keys ORDER BY created_ms, id"))
}

pub(crate) fn change(id: &KeyId, new: &KeyRules, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let changes = rules(new).map(|(column, value)| format!("{column} = {}", draft.place(value)));
    let changes = changes.join(", ");
    let id = draft.text(id.as_str());
    draft.with(format!(
        "UPDATE api_keys SET {changes} WHERE id = {id} AND revoked_ms IS NULL"
    ))
}

pub(crate) fn rotate(id: &KeyId, secret: &NewSecret, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let until = draft.number(secret.previous_until_ms);
    let (hash, prefix) = (draft.text(&secret.digest.to_text()), draft.text(&secret.prefix));
    let id = draft.text(id.as_str());
    // What stands to the right is what the row held before.
    draft.with(format!(
        "UPDATE api_keys SET previous_hash = hash, previous_until_ms = {until}, hash = {hash}, prefix = {prefix} \
         WHERE id = {id} AND revoked_ms IS NULL"
    ))
}

pub(crate) fn revoke(id: &KeyId, now_ms: u64, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let (now, id) = (draft.number(now_ms), draft.text(id.as_str()));
    draft.with(format!(
        "UPDATE api_keys SET revoked_ms = {now} WHERE id = {id} AND revoked_ms IS NULL"
    ))
}

/// Of several frontends the one that saw it last is right.
pub(crate) fn used(id: &KeyId, at_ms: u64, mark: char) -> Selection {
    let mut draft = Draft::new(mark);
    let (at, id) = (draft.number(at_ms), draft.text(id.as_str()));
    let again = draft.number(at_ms);
    draft.with(format!(
        "UPDATE api_keys SET last_used_ms = {at} WHERE id = {id} AND coalesce(last_used_ms, 0) < {again}"
    ))
}
