//! What went wrong with the database, in one line, and what follows from it.

use std::error::Error;
use std::io;

use deadpool_postgres::PoolError;
use deadpool_postgres::tokio_postgres::Error as PostgresError;

use crate::LedgerError;

/// A failed use of the database. Its text never holds a password or a value of a row.
#[derive(Debug, thiserror::Error)]
#[error("postgres at {address}: {reason}")]
pub(super) struct Fault {
    address: String,
    reason: String,
    cause: Cause,
}

/// What has to change before it can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Nothing, or the state of the server.
    Passing,
    /// How the server or this process is set up.
    Setup,
    /// What was to be stored.
    Events,
}

impl Fault {
    pub(super) fn of_pool(address: &str, error: &PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::of(address, error),
            PoolError::Timeout(_) | PoolError::Closed | PoolError::NoRuntimeSpecified => {
                Self::passing(address, "no connection within the limit")
            }
            PoolError::PostCreateHook(_) => Self::passing(address, "a new connection was not accepted"),
        }
    }

    pub(super) fn of(address: &str, error: &PostgresError) -> Self {
        Self {
            address: address.to_owned(),
            reason: reason(error),
            cause: cause(error),
        }
    }

    pub(super) fn passing(address: &str, reason: &str) -> Self {
        Self {
            address: address.to_owned(),
            reason: reason.to_owned(),
            cause: Cause::Passing,
        }
    }

    /// While the ledger is opened, a wrong setting is told at once.
    pub(super) fn while_opening(self, what: &'static str) -> LedgerError {
        let is_passing = self.cause == Cause::Passing;
        let source = Box::new(self);
        if is_passing {
            LedgerError::Database { what, source }
        } else {
            LedgerError::Unusable { what, source }
        }
    }

    /// Once it is open, the settings were right: a changed password or a lost right is waited out like an outage.
    pub(super) fn while_open(self, what: &'static str) -> LedgerError {
        let is_about_events = self.cause == Cause::Events;
        let source = Box::new(self);
        if is_about_events {
            LedgerError::Refused { what, source }
        } else {
            LedgerError::Database { what, source }
        }
    }
}

fn reason(error: &PostgresError) -> String {
    let text = match error.as_db_error() {
        // Not its detail, which shows values of the row.
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                text += &format!(": {error}");
                source = error.source();
            }
            text
        }
    };
    text.replace(['\n', '\r'], " ")
}

fn cause(error: &PostgresError) -> Cause {
    if let Some(code) = error.code() {
        return cause_of_state(code.code());
    }
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let inner = error.get_ref();
            let is_about_certificates = inner.is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>);
            return if is_about_certificates {
                Cause::Setup
            } else {
                Cause::Passing
            };
        }
        source = error.source();
    }
    if error.is_closed() {
        Cause::Passing
    } else {
        Cause::Setup
    }
}

/// An SQLSTATE is a class of two characters and three more.
fn cause_of_state(state: &str) -> Cause {
    match state.get(..2) {
        // Data exception, integrity constraint, program limit (a value that is too long for an index).
        Some("22" | "23" | "54") => Cause::Events,
        // Connection, rollback, resources, state, intervention, system, internal.
        Some("08" | "40" | "53" | "55" | "57" | "58" | "XX") => Cause::Passing,
        Some(_) | None => Cause::Setup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(state: &str) -> Fault {
        Fault {
            address: "db:5432".to_owned(),
            reason: "no".to_owned(),
            cause: cause_of_state(state),
        }
    }

    #[test]
    fn a_wrong_password_is_told_at_start_and_waited_out_later() {
        for state in ["28P01", "28000", "3D000", "42501"] {
            assert!(!fault(state).while_opening("x").is_retryable(), "{state}");
            assert!(fault(state).while_open("x").is_retryable(), "{state}");
        }
    }

    #[test]
    fn a_server_that_starts_stops_or_is_full_is_tried_again() {
        for state in ["57P01", "57P03", "53300", "08006", "40P01"] {
            assert!(fault(state).while_opening("x").is_retryable(), "{state}");
            assert!(fault(state).while_open("x").is_retryable(), "{state}");
        }
    }

    #[test]
    fn only_a_fault_of_the_events_refuses_them() {
        for state in ["22021", "23514", "54000"] {
            assert!(fault(state).while_open("x").is_refusal(), "{state}");
        }
        for state in ["28P01", "57P01", "42P01", ""] {
            assert!(!fault(state).while_open("x").is_refusal(), "{state}");
        }
    }
}
