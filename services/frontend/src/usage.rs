//! `/v1/usage`: what a key, or its tenant, has used. Nobody is told of another tenant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::time::timeout;
use vlinders_ledger::{Amount, LedgerError, Scope, UsagePeriod, UsageQuery};
use vlinders_openai_api::ApiError;
use vlinders_types::ModelName;

use crate::app::App;
use crate::http::{error_response, json_response};
use crate::{Books, Caller};

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
/// Lines of one answer.
const LINES: u32 = 10_000;
/// How long one question may keep the ledger busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The year 10000, in seconds since 1970: nothing is used later.
const LAST_S: u64 = 253_402_300_800;
const PARAMETERS: [&str; 5] = ["start", "end", "bucket", "model", "scope"];

/// The route.
pub(crate) async fn usage(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Response {
    match answer(&app, &caller, uri.query().unwrap_or_default()).await {
        Ok(answer) => json_response(StatusCode::OK, &answer),
        Err(error) => error_response(&error),
    }
}

async fn answer(app: &App, caller: &Caller, query: &str) -> Result<Value, ApiError> {
    let question = Question::read(query, app.clock.now_ms() / 1000)?;
    if question.whose == Whose::Tenant && !caller.may(Scope::Usage) {
        let text = "scope: this API key tells its own usage only; that of its tenant needs a key for usage";
        return Err(ApiError {
            param: Some("scope".to_owned()),
            ..ApiError::new(403, "missing_scope", text)
        });
    }
    let Some(reports) = &app.books.reports else {
        let text =
            "usage is not kept where this server could read it; ask whoever runs it for --database-url";
        return Err(ApiError::new(404, "usage_not_kept", text));
    };
    let ledger_query = UsageQuery {
        tenant: Some(caller.tenant.clone()),
        key: (question.whose == Whose::Key).then(|| caller.key.clone()),
        model: question.model.as_deref().map(|name| {
            let served = app.models.find(name);
            served.map_or_else(|| ModelName::new(name), |model| model.name.clone())
        }),
        from_ms: Some(question.start_s * 1000),
        until_ms: Some(question.end_s * 1000),
        limit: Some(LINES + 1),
        ..UsageQuery::default()
    };
    let asked = reports.periods(&ledger_query, question.bucket.seconds() * 1000);
    let periods = match timeout(ANSWER_LIMIT, asked).await {
        Ok(Ok(periods)) => periods,
        Ok(Err(error)) => return Err(unavailable(Some(&error))),
        Err(_late) => return Err(unavailable(None)),
    };
    if periods.len() > LINES as usize {
        let text = format!(
            "this is more than {LINES} lines; ask for less time, days rather than hours, or one model"
        );
        return Err(ApiError::invalid("start", text));
    }
    Ok(question.told(&periods, &app.books))
}

fn unavailable(error: Option<&LedgerError>) -> ApiError {
    let error = error.map_or_else(|| "no answer within the limit".to_owned(), ToString::to_string);
    tracing::warn!(%error, "usage cannot be told");
    ApiError::new(
        503,
        "usage_unavailable",
        "usage cannot be read now; try again soon",
    )
    .with_retry_after(1)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bucket {
    Hour,
    Day,
}

impl Bucket {
    const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    const fn seconds(self) -> u64 {
        match self {
            Self::Hour => HOUR_S,
            Self::Day => DAY_S,
        }
    }

    /// Of one answer.
    const fn longest_s(self) -> u64 {
        match self {
            Self::Hour => 31 * DAY_S,
            Self::Day => 366 * DAY_S,
        }
    }

    /// When nobody says how far to look back.
    const fn usual_s(self) -> u64 {
        match self {
            Self::Hour => DAY_S,
            Self::Day => 30 * DAY_S,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Key,
    Tenant,
}

impl Whose {
    const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Tenant => "tenant",
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    start_s: u64,
    end_s: u64,
    bucket: Bucket,
    model: Option<String>,
    whose: Whose,
}

impl Question {
    fn read(query: &str, now_s: u64) -> Result<Self, ApiError> {
        let mut given = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !PARAMETERS.contains(&name.as_ref()) {
                let known = PARAMETERS.join(", ");
                let text = format!("is not known here; known are {known}");
                return Err(ApiError::invalid(&name, text).with_code("unknown_parameter"));
            }
            if given
                .insert(name.clone().into_owned(), value.into_owned())
                .is_some()
            {
                return Err(ApiError::invalid(&name, "is given twice"));
            }
        }
        let of = |name: &str| given.get(name).map(String::as_str);
        let bucket = match of("bucket") {
            None | Some("hour") => Bucket::Hour,
            Some("day") => Bucket::Day,
            Some(_) => return Err(ApiError::invalid("bucket", "must be hour or day")),
        };
        let whose = match of("scope") {
            None | Some("key") => Whose::Key,
            Some("tenant") => Whose::Tenant,
            Some(_) => return Err(ApiError::invalid("scope", "must be key or tenant")),
        };
        let seconds = |name: &str| match of(name) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|seconds| *seconds <= LAST_S)
                .map(Some)
                .ok_or_else(|| ApiError::invalid(name, "must be whole seconds since 1970")),
        };
        // What has ended in this second is told too.
        let end_s = seconds("end")?.unwrap_or(now_s + 1);
        let usual_s = end_s.saturating_sub(bucket.usual_s());
        let start_s = seconds("start")?.unwrap_or(usual_s - usual_s % bucket.seconds());
        if start_s >= end_s {
            return Err(ApiError::invalid("start", "must be before end"));
        }
        if end_s - start_s > bucket.longest_s() + bucket.seconds() {
            let days = bucket.longest_s() / DAY_S;
            let text = format!("by the {}, {days} days can be asked for at once", bucket.name());
            return Err(ApiError::invalid("start", text));
        }
        Ok(Self {
            start_s,
            end_s,
            bucket,
            model: of("model").map(str::to_owned),
            whose,
        })
    }

    fn told(&self, periods: &[UsagePeriod], books: &Books) -> Value {
        let mut sums = [0_u64; 4];
        let (mut cost, mut is_priced) = (Amount::default(), books.prices.is_some());
        let lines = periods.iter().map(|UsagePeriod { start_ms, total }| {
            let counts = [
                total.requests,
                total.prompt_tokens,
                total.cached_tokens,
                total.completion_tokens,
            ];
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
            let amount = books.prices.as_ref().and_then(|prices| prices.amount(total));
            match amount {
                Some(amount) => cost += amount,
                None => is_priced = false,
            }
            let mut line = counted(counts, amount);
            line["start"] = (start_ms / 1000).into();
            line["model"] = total.model.as_str().into();
            line["class"] = total.class.name().into();
            line
        });
        let lines = Vec::from_iter(lines);
        json!({
            "object": "usage",
            "start": self.start_s,
            "end": self.end_s,
            "bucket": self.bucket.name(),
            "scope": self.whose.name(),
            "currency": books.prices.as_ref().map(|prices| prices.currency()),
            "data": lines,
            "total": counted(sums, is_priced.then_some(cost)),
        })
    }
}

fn counted([requests, prompt, cached, completion]: [u64; 4], amount: Option<Amount>) -> Value {
    json!({
        "requests": requests,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "completion_tokens": completion,
        "nanos": amount.map(Amount::nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_700_000_000;

    #[test]
    fn without_words_a_day_of_hours_of_the_key_is_asked_for() {
        let question = Question::read("", NOW_S).unwrap();
        assert_eq!((question.bucket, question.whose), (Bucket::Hour, Whose::Key));
        assert_eq!((question.start_s % HOUR_S, question.end_s), (0, NOW_S + 1));
        let days = Question::read("bucket=day&scope=tenant&model=a%2Fb", NOW_S).unwrap();
        assert_eq!((days.start_s % DAY_S, days.model.as_deref()), (0, Some("a/b")));
        assert_eq!(days.whose, Whose::Tenant);
        let given = Question::read("start=7&end=8", NOW_S).unwrap();
        assert_eq!((given.start_s, given.end_s), (7, 8));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_name() {
        for (query, param) in [
            ("tenant=other", "tenant"),
            ("start=1&start=2", "start"),
            ("start=soon", "start"),
            ("end=-1", "end"),
            ("end=253402300801", "end"),
            ("start=8&end=8", "start"),
            ("start=0", "start"),
            ("bucket=minute", "bucket"),
            ("scope=all", "scope"),
        ] {
            let error = Question::read(query, NOW_S).unwrap_err();
            assert_eq!(
                (error.status, error.param.as_deref()),
                (400, Some(param)),
                "{query}"
            );
        }
    }
}
