//! A query as SQL with its values beside it, for every database.

use crate::UsageQuery;
use crate::rows::{COLUMNS, as_sql};

/// What is bound to a place in the SQL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(i64),
    MaybeText(Option<String>),
    MaybeNumber(Option<i64>),
    Flag(bool),
    Bytes(Vec<u8>),
}

/// SQL with numbered places, and what belongs there, first to last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) sql: String,
    pub(crate) values: Vec<Value>,
}

impl Selection {
    /// Rows, newest first. `mark` is what the database writes before the number of a place.
    pub(crate) fn rows(query: &UsageQuery, mark: char) -> Self {
        let (condition, mut values) = condition(query, mark);
        let mut sql =
            format!("SELECT {COLUMNS} FROM usage {condition} ORDER BY finished_ms DESC, request_id DESC");
        if let Some(limit) = query.limit {
            values.push(Value::Number(limit.into()));
            sql += &format!(" LIMIT {mark}{}", values.len());
        }
        Self { sql, values }
    }

    /// Sums by stretch of time, tenant, model and class.
    pub(crate) fn periods(query: &UsageQuery, period_ms: u64, mark: char) -> Self {
        let (condition, mut values) = condition(query, mark);
        let mut place = || {
            values.push(Value::Number(as_sql(period_ms.max(1))));
            format!("{mark}{}", values.len())
        };
        // Whole numbers are divided without a rest.
        let start = format!("CAST((finished_ms / {}) * {} AS BIGINT)", place(), place());
        let sum = |column: &str| format!("CAST(sum({column}) AS BIGINT)");
        let mut sql = format!(
            "SELECT tenant, model, count(*), {}, {}, {}, class, {start} AS start_ms FROM usage {condition} \
             GROUP BY start_ms, tenant, model, class ORDER BY start_ms, tenant, model, class",
            sum("prompt_tokens"),
            sum("cached_tokens"),
            sum("completion_tokens"),
        );
        if let Some(limit) = query.limit {
            values.push(Value::Number(limit.into()));
            sql += &format!(" LIMIT {mark}{}", values.len());
        }
        Self { sql, values }
    }

    /// Sums by tenant, model and class.
    pub(crate) fn totals(query: &UsageQuery, mark: char) -> Self {
        let (condition, values) = condition(query, mark);
        // Sums of large integers are of another type in some databases.
        let sum = |column: &str| format!("CAST(sum({column}) AS BIGINT)");
        let sql = format!(
            "SELECT tenant, model, count(*), {}, {}, {}, class FROM usage {condition} \
             GROUP BY tenant, model, class ORDER BY tenant, model, class",
            sum("prompt_tokens"),
            sum("cached_tokens"),
            sum("completion_tokens"),
        );
        Self { sql, values }
    }
}

fn condition(query: &UsageQuery, mark: char) -> (String, Vec<Value>) {
    let text = |text: &str| Value::Text(text.to_owned());
    let parts = [
        (
            "tenant =",
            query.tenant.as_ref().map(|tenant| text(tenant.as_str())),
        ),
        ("key =", query.key.as_ref().map(|key| text(key.as_str()))),
        ("model =", query.model.as_ref().map(|model| text(model.as_str()))),
        (
            "finished_ms >=",
            query.from_ms.map(|from| Value::Number(as_sql(from))),
        ),
        (
            "finished_ms <",
            query.until_ms.map(|until| Value::Number(as_sql(until))),
        ),
        (
            "created_ms >=",
            query.begun_from_ms.map(|from| Value::Number(as_sql(from))),
        ),
        (
            "created_ms <",
            query.begun_until_ms.map(|until| Value::Number(as_sql(until))),
        ),
    ];
    let mut values = Vec::new();
    let mut sql = String::new();
    for (part, value) in parts {
        let Some(value) = value else { continue };
        values.push(value);
        let joint = if values.len() == 1 { "WHERE" } else { " AND" };
        sql += &format!("{joint} {part} {mark}{}", values.len());
    }
    (sql, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlinders_types::TenantId;

    #[test]
    fn values_are_bound_and_never_part_of_the_sql() {
        let query = UsageQuery {
            tenant: Some(TenantId::new("x' OR 'a'='a")),
            until_ms: Some(u64::MAX),
            limit: Some(3),
            ..UsageQuery::default()
        };
        let Selection { sql, values } = Selection::rows(&query, '$');
        assert!(
            sql.contains("WHERE tenant = $1 AND finished_ms < $2 ORDER"),
            "{sql}"
        );
        assert!(sql.ends_with("LIMIT $3"), "{sql}");
        let expected = [
            Value::Text("x' OR 'a'='a".to_owned()),
            Value::Number(i64::MAX),
            Value::Number(3),
        ];
        assert_eq!(values, expected);
        assert!(Selection::totals(&UsageQuery::default(), '?').values.is_empty());
    }
}
