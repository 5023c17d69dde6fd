//! Usage as it lies in a table, the same in every database.

use vlinders_types::{
    BillingClass, FinishReason, KeyId, ModelName, RequestId, TenantId, TokenCounts, UsageEvent, WorkerId,
};

use crate::{LedgerError, UsagePeriod, UsageTotal};

/// The columns of `usage`, in the order of [`StoredRow`].
pub(crate) const COLUMNS: &str = "request_id, attempt, tenant, key, model, writer, prompt_tokens, cached_tokens, \
                                  completion_tokens, finish, stream, created_ms, first_token_ms, finished_ms, class";

/// A row as it was read: not checked yet.
pub(crate) struct StoredRow {
    pub(crate) request_id: String,
    pub(crate) attempt: i64,
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) model: String,
    pub(crate) writer: String,
    pub(crate) prompt_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) completion_tokens: i64,
    pub(crate) finish: String,
    pub(crate) stream: bool,
    pub(crate) created_ms: i64,
    pub(crate) first_token_ms: Option<i64>,
    pub(crate) finished_ms: i64,
    pub(crate) class: String,
}

impl StoredRow {
    pub(crate) fn into_event(self) -> Result<UsageEvent, LedgerError> {
        let Ok(request_id) = self.request_id.parse::<RequestId>() else {
            return Err(foreign("request_id", self.request_id));
        };
        let first_token_ms = self.first_token_ms;
        Ok(UsageEvent {
            request_id,
            attempt: number("attempt", self.attempt)?,
            tenant: TenantId::new(&self.tenant),
            key: KeyId::new(&self.key),
            model: ModelName::new(&self.model),
            writer: WorkerId::new(&self.writer),
            class: class(self.class)?,
            counts: TokenCounts {
                prompt: number("prompt_tokens", self.prompt_tokens)?,
                cached: number("cached_tokens", self.cached_tokens)?,
                completion: number("completion_tokens", self.completion_tokens)?,
            },
            finish: finish(self.finish)?,
            stream: self.stream,
            created_ms: number("created_ms", self.created_ms)?,
            first_token_ms: first_token_ms
                .map(|time| number("first_token_ms", time))
                .transpose()?,
            finished_ms: number("finished_ms", self.finished_ms)?,
        })
    }
}

/// A sum as it was read: not checked yet.
pub(crate) struct StoredTotal {
    pub(crate) tenant: String,
    pub(crate) model: String,
    pub(crate) requests: i64,
    pub(crate) prompt_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) completion_tokens: i64,
    pub(crate) class: String,
}

/// Reads a [`StoredTotal`] from any database's row, whose columns are had with this method.
macro_rules! stored_total {
    ($row:expr, $get:ident) => {
        $crate::rows::StoredTotal {
            tenant: $row.$get(0)?,
            model: $row.$get(1)?,
            requests: $row.$get(2)?,
            prompt_tokens: $row.$get(3)?,
            cached_tokens: $row.$get(4)?,
            completion_tokens: $row.$get(5)?,
            class: $row.$get(6)?,
        }
    };
}
pub(crate) use stored_total;

impl StoredTotal {
    pub(crate) fn into_total(self) -> Result<UsageTotal, LedgerError> {
        Ok(UsageTotal {
            tenant: TenantId::new(&self.tenant),
            model: ModelName::new(&self.model),
            class: class(self.class)?,
            requests: self.requests.unsigned_abs(),
            prompt_tokens: self.prompt_tokens.unsigned_abs(),
            cached_tokens: self.cached_tokens.unsigned_abs(),
            completion_tokens: self.completion_tokens.unsigned_abs(),
        })
    }
}

pub(crate) fn period(start_ms: i64, total: StoredTotal) -> Result<UsagePeriod, LedgerError> {
    Ok(UsagePeriod {
        start_ms: start_ms.unsigned_abs(),
        total: total.into_total()?,
    })
}

/// The databases' integers are signed; times beyond them do not occur.
pub(crate) fn as_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn number<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, LedgerError> {
    T::try_from(value).map_err(|_| foreign(what, value.to_string()))
}

fn finish(name: String) -> Result<FinishReason, LedgerError> {
    let reasons = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::Cancelled,
        FinishReason::Error,
    ];
    let known = reasons.into_iter().find(|reason| reason.name() == name);
    known.ok_or_else(|| foreign("finish", name))
}

fn class(name: String) -> Result<BillingClass, LedgerError> {
    BillingClass::named(&name).ok_or_else(|| foreign("class", name))
}

pub(crate) fn foreign(what: &'static str, found: String) -> LedgerError {
    LedgerError::Foreign { what, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> StoredRow {
        StoredRow {
            request_id: RequestId(7).to_string(),
            attempt: 0,
            tenant: "t".to_owned(),
            key: "k".to_owned(),
            model: "m".to_owned(),
            writer: "w".to_owned(),
            prompt_tokens: 3,
            cached_tokens: 0,
            completion_tokens: 1,
            finish: "stop".to_owned(),
            stream: true,
            created_ms: 1,
            first_token_ms: None,
            finished_ms: 2,
            class: "standard".to_owned(),
        }
    }

    #[test]
    fn what_another_version_wrote_is_named_and_not_guessed() {
        type Change = fn(&mut StoredRow);
        assert!(row().into_event().is_ok());
        let changes: [(&str, Change); 5] = [
            ("request_id", |row| row.request_id = "7".to_owned()),
            ("finish", |row| row.finish = "bored".to_owned()),
            ("class", |row| row.class = "given away".to_owned()),
            ("prompt_tokens", |row| row.prompt_tokens = -1),
            ("finished_ms", |row| row.finished_ms = -1),
        ];
        for (column, change) in changes {
            let mut row = row();
            change(&mut row);
            let found = row.into_event();
            assert!(
                matches!(found, Err(LedgerError::Foreign { what, .. }) if what == column),
                "{column}: {found:?}"
            );
        }
    }
}
