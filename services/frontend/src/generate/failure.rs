//! Ends that are no answer, as errors of the API. Texts are fixed; what happened in detail is in the log.

use vlinders_openai_api::{ApiError, FinishWord};
use vlinders_types::{FaultKind, Finish, FinishReason, RequestFault, TokenCounts};

use crate::streams::{End, GivenUp};

/// How an answer ended well, or the error it ended with.
pub(crate) fn outcome(end: End) -> Result<(FinishWord, TokenCounts), ApiError> {
    match end {
        End::Finished(finish) => finished(finish),
        End::GivenUp(reason) => Err(given_up(reason)),
    }
}

fn finished(finish: Finish) -> Result<(FinishWord, TokenCounts), ApiError> {
    match finish.reason {
        FinishReason::Stop => Ok((FinishWord::Stop, finish.counts)),
        FinishReason::Length => Ok((FinishWord::Length, finish.counts)),
        FinishReason::Cancelled => Err(retry(
            503,
            "cancelled",
            "the server ended this request; try again",
        )),
        FinishReason::Error => Err(finish.fault.as_ref().map_or_else(internal, fault)),
    }
}

fn fault(fault: &RequestFault) -> ApiError {
    match fault.kind {
        // The worker's text is fixed and names what to do.
        FaultKind::Invalid => ApiError::new(400, "invalid_request", fault.message.as_str()),
        FaultKind::Overloaded => retry(
            503,
            "overloaded",
            "no worker has room for this request now; try again soon",
        ),
        FaultKind::Deadline => deadline(),
        FaultKind::Internal => internal(),
    }
}

fn given_up(reason: GivenUp) -> ApiError {
    match reason {
        GivenUp::Deadline => deadline(),
        GivenUp::SlowClient => ApiError::new(
            408,
            "client_too_slow",
            "the answer was not read fast enough and was cancelled",
        ),
        GivenUp::WorkersLost => retry(
            502,
            "workers_lost",
            "the workers that computed this answer were lost; try again",
        ),
        GivenUp::Stopping => retry(503, "shutting_down", "the server is shutting down; try again"),
    }
}

fn deadline() -> ApiError {
    ApiError::new(
        504,
        "deadline_exceeded",
        "the answer was not complete within the server's deadline",
    )
}

fn internal() -> ApiError {
    ApiError::new(500, "internal_error", "something went wrong on our side")
}

fn retry(status: u16, code: &'static str, text: &str) -> ApiError {
    ApiError::new(status, code, text).with_retry_after(1)
}
