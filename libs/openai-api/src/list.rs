//! Lists that come in pages.

use serde_json::{Value, json};

use crate::{ApiError, LIMITS};

/// What is asked of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// So many at most.
    pub limit: usize,
    /// Oldest first.
    pub is_ascending: bool,
    /// Behind the one of this id.
    pub after: Option<String>,
    /// Only for this, in a list of files.
    pub purpose: Option<String>,
}

impl ListQuery {
    /// Reads what stands behind the `?` of a path. `names` are those that this list knows, `limits` what `limit` is unless it
    /// is given, and at most.
    ///
    /// # Errors
    /// The 400 that names the parameter.
    pub fn parse(
        query: Option<&str>,
        names: &[&str],
        (usual, most): (usize, usize),
    ) -> Result<Self, ApiError> {
        let mut told = Self {
            limit: usual,
            is_ascending: false,
            after: None,
            purpose: None,
        };
        let mut seen = Vec::new();
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        for pair in pairs {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(known) = names.iter().find(|known| **known == name) else {
                let text = format!("is not a parameter of this list; it knows {}", names.join(", "));
                return Err(ApiError::invalid(name, text).with_code("unknown_parameter"));
            };
            if seen.contains(known) {
                return Err(ApiError::invalid(name, "is given twice"));
            }
            seen.push(*known);
            let value = decoded(value).ok_or_else(|| ApiError::invalid(name, "is no text"))?;
            match *known {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=most).contains(limit));
                    let text = format!("must be a whole number from 1 to {most}");
                    told.limit = limit.ok_or_else(|| ApiError::invalid(name, text))?;
                }
                "order" => {
                    told.is_ascending = match value.as_str() {
                        "asc" => true,
                        "desc" => false,
                        _ => return Err(ApiError::invalid(name, "must be asc or desc")),
                    }
                }
                "after" => told.after = Some(value).filter(|id| !id.is_empty()),
                _ => told.purpose = Some(value),
            }
        }
        Ok(told)
    }
}

/// With its escapes read.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                u8::from_str_radix(digits, 16).ok()?
            }
            other => other,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    let is_plain = text.len() <= LIMITS.name_bytes && !text.chars().any(char::is_control);
    is_plain.then_some(text)
}

/// A page of a list whose entries have ids.
#[must_use]
pub fn list_page(entries: Vec<Value>, has_more: bool) -> Value {
    let id = |entry: Option<&Value>| entry.map_or(Value::Null, |entry| entry["id"].clone());
    json!({
        "object": "list",
        "first_id": id(entries.first()),
        "last_id": id(entries.last()),
        "has_more": has_more,
        "data": entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<ListQuery, String> {
        ListQuery::parse(Some(query), &["limit", "order", "after"], (20, 100)).map_err(|error| error.message)
    }

    #[test]
    fn what_is_asked_of_a_list_is_read_or_refused_by_name() {
        let query = read("limit=3&order=asc&after=a%2Db+c").unwrap();
        let expected = (3, true, Some("a-b c".to_owned()));
        assert_eq!((query.limit, query.is_ascending, query.after), expected);
        assert_eq!(read("").unwrap().limit, 20);
        for (query, name) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=1&limit=2", "limit"),
            ("order=up", "order"),
            ("after=%zz", "after"),
            ("after=%", "after"),
            ("purpose=batch", "purpose"),
        ] {
            let text = read(query).unwrap_err();
            assert!(text.starts_with(name), "{query}: {text}");
        }
    }

    #[test]
    fn a_page_names_its_ends() {
        let page = list_page(vec![json!({"id": "a"}), json!({"id": "b"})], true);
        assert_eq!((&page["first_id"], &page["last_id"]), (&json!("a"), &json!("b")));
        assert_eq!(list_page(Vec::new(), false)["first_id"], Value::Null);
    }
}
