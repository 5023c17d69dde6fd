//! The subjects messages travel on, built here and nowhere else.
//!
//! Names come from outside, so each becomes one token by [`token`]. Two names never share a token: a tenant cannot
//! listen on another's subject by choosing a name.

use std::fmt::Write;

use vlinders_types::{FrontendId, ModelName, Pool, Request, RequestId, TenantId, WorkerId};

/// Subscribes to every request; the filter of a consumer that serves all models.
pub const ALL_REQUESTS: &str = "vl.req.>";
/// Subscribes to every usage event.
pub const ALL_USAGE: &str = "vl.usage.>";
/// Subscribes to every dead letter.
pub const ALL_DEAD_LETTERS: &str = "vl.dlq.>";
/// Subscribes to the heartbeats of all frontends.
pub const ALL_HEARTBEATS: &str = "vl.hb.frontend.*";
/// The queue of requests that named none.
pub const DEFAULT_QUEUE: &str = "default";

/// What a worker can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerCall {
    /// Take over a sequence.
    Offer,
    /// End a request.
    Cancel,
    /// Publish batches again.
    Resend,
    /// Take no new work.
    Drain,
}

impl WorkerCall {
    const fn name(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Cancel => "cancel",
            Self::Resend => "resend",
            Self::Drain => "drain",
        }
    }
}

/// One token of a subject that stands for this name and no other. Letters, digits and `-` stay; every other byte
/// becomes `_` and two hexadecimal digits; the empty name becomes `_`.
#[must_use]
pub fn token(name: &str) -> String {
    if name.is_empty() {
        return "_".to_owned();
    }
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            token.push(char::from(byte));
        } else {
            write!(token, "_{byte:02x}").expect("writing to a String cannot fail");
        }
    }
    token
}

/// Where requests for a model wait.
#[must_use]
pub fn request_subject(model: &ModelName, queue: &str) -> String {
    format!("vl.req.{}.{}", token(model.as_str()), token(queue))
}

/// The filter of a consumer that serves all queues of one model.
#[must_use]
pub fn requests_of(model: &ModelName) -> String {
    format!("vl.req.{}.*", token(model.as_str()))
}

/// The message id of a request's dispatch: the same attempt sent twice is stored once.
#[must_use]
pub fn request_message_id(request: &Request) -> String {
    format!("{}.{}", request.request_id, request.attempt)
}

/// A frontend's inbox for step batches.
#[must_use]
pub fn tokens_subject(frontend: &FrontendId) -> String {
    format!("vl.tok.{}", token(frontend.as_str()))
}

/// Where a worker sends its beacon.
#[must_use]
pub fn beacon_subject(pool: Pool, worker: &WorkerId) -> String {
    format!("vl.hb.{}.{}", pool.name(), token(worker.as_str()))
}

/// Subscribes to the beacons of all workers of a pool.
#[must_use]
pub fn beacons_of(pool: Pool) -> String {
    format!("vl.hb.{}.*", pool.name())
}

/// Where a frontend sends its heartbeat. [`ALL_HEARTBEATS`] subscribes to all of them.
#[must_use]
pub fn heartbeat_subject(frontend: &FrontendId) -> String {
    format!("vl.hb.frontend.{}", token(frontend.as_str()))
}

/// Where a worker is asked for something.
#[must_use]
pub fn worker_subject(worker: &WorkerId, call: WorkerCall) -> String {
    format!("vl.w.{}.{}", token(worker.as_str()), call.name())
}

/// Where a tenant's usage events are put.
#[must_use]
pub fn usage_subject(tenant: &TenantId) -> String {
    format!("vl.usage.{}", token(tenant.as_str()))
}

/// The message id of a request's usage event: written twice, stored once.
#[must_use]
pub fn usage_message_id(request_id: RequestId) -> String {
    request_id.to_string()
}

/// Where the poisoned requests of a model are put.
#[must_use]
pub fn dead_letter_subject(model: &ModelName) -> String {
    format!("vl.dlq.{}", token(model.as_str()))
}

/// The tap for outside subscribers of a tenant.
#[must_use]
pub fn tenant_events_subject(tenant: &TenantId, model: &ModelName) -> String {
    format!("vl.ev.{}.{}", token(tenant.as_str()), token(model.as_str()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subjects_are_as_the_design_says() {
        let model = ModelName::new("org/Model-3.1_8B");
        let worker = WorkerId::new("decode-3");
        let frontend = FrontendId::new("f1");
        assert_eq!(
            request_subject(&model, DEFAULT_QUEUE),
            "vl.req.org_2fModel-3_2e1_5f8B.default"
        );
        assert_eq!(requests_of(&model), "vl.req.org_2fModel-3_2e1_5f8B.*");
        assert_eq!(tokens_subject(&frontend), "vl.tok.f1");
        assert_eq!(beacon_subject(Pool::Decode, &worker), "vl.hb.decode.decode-3");
        assert_eq!(beacons_of(Pool::Prefill), "vl.hb.prefill.*");
        assert_eq!(heartbeat_subject(&frontend), "vl.hb.frontend.f1");
        assert_eq!(worker_subject(&worker, WorkerCall::Offer), "vl.w.decode-3.offer");
        assert_eq!(
            worker_subject(&worker, WorkerCall::Cancel),
            "vl.w.decode-3.cancel"
        );
        assert_eq!(
            worker_subject(&worker, WorkerCall::Resend),
            "vl.w.decode-3.resend"
        );
        assert_eq!(worker_subject(&worker, WorkerCall::Drain), "vl.w.decode-3.drain");
        assert_eq!(usage_subject(&TenantId::new("a.b")), "vl.usage.a_2eb");
        assert_eq!(dead_letter_subject(&ModelName::new("m")), "vl.dlq.m");
        assert_eq!(
            tenant_events_subject(&TenantId::new("t>"), &ModelName::new("")),
            "vl.ev.t_3e._"
        );
    }

    proptest! {
        #[test]
        fn a_token_has_no_meaning_of_its_own(name: String) {
            let token = token(&name);
            prop_assert!(!token.is_empty());
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        }

        #[test]
        fn two_names_never_share_a_token(left in "[a-f0-9_.* >-]{0,6}", right in "[a-f0-9_.* >-]{0,6}") {
            prop_assert_eq!(left == right, token(&left) == token(&right));
        }
    }
}
