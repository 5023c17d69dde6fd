//! The tap: what requests are answered, told to subscribers outside the service, each tenant's on a subject of its own.
//! Serving never waits for it. Between the two lies a bounded queue, and what does not fit is counted and gone; so is what
//! a subscriber is too slow for, which is between it and the bus.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vlinders_bus::{Bus, Subject};
use vlinders_types::{Chunk, Request, TenantId};
use vlinders_wire::subjects::tenant_events_subject;
use vlinders_wire::{TenantTokens, encode_tenant_tokens};

use crate::metrics::FrontendMetrics;

/// Events that wait for the bus at most. At 64 streams of 50 tokens a second it is more than a second's worth.
const QUEUE: usize = 4096;
/// Of the JSON form. A field that changes its meaning changes it; new fields do not.
const JSON_VERSION: u32 = 1;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapForm {
    /// `TenantTokens` of `proto/vlinders/v1/tokens.proto`.
    Protobuf,
    /// The same as JSON: `proto/README.md`.
    Json,
}

/// An event and whose it is.
pub(crate) struct TapEvent {
    tenant: TenantId,
    tokens: TenantTokens,
}

/// Takes events.
pub(crate) struct Tap {
    /// None when the tap is closed.
    events: Option<mpsc::Sender<TapEvent>>,
    metrics: Arc<FrontendMetrics>,
}

/// Brings events to the bus.
pub(crate) struct TapLoop {
    events: mpsc::Receiver<TapEvent>,
    form: TapForm,
    bus: Arc<dyn Bus>,
    metrics: Arc<FrontendMetrics>,
}

impl Tap {
    /// Opens the tap in this form, if in any.
    pub(crate) fn new(
        form: Option<TapForm>,
        bus: &Arc<dyn Bus>,
        metrics: &Arc<FrontendMetrics>,
    ) -> (Self, Option<TapLoop>) {
        let (sender, events) = mpsc::channel(QUEUE);
        let flow = form.map(|form| TapLoop {
            events,
            form,
            bus: Arc::clone(bus),
            metrics: Arc::clone(metrics),
        });
        let tap = Self {
            events: flow.is_some().then_some(sender),
            metrics: Arc::clone(metrics),
        };
        (tap, flow)
    }

    /// What there is to tell of a chunk, before it goes its way. Nothing when nobody asked for the tap.
    pub(crate) fn look(&self, request: &Request, chunk: &Chunk) -> Option<TapEvent> {
        self.events.as_ref()?;
        if chunk.ids.is_empty() && chunk.text.is_empty() && chunk.finish.is_none() {
            return None;
        }
        let finish = chunk.finish.as_ref();
        Some(TapEvent {
            tenant: request.tenant.clone(),
            tokens: TenantTokens {
                request_id: request.request_id,
                model: request.model.clone(),
                key: request.key.clone(),
                position: chunk.position,
                ids: chunk.ids.clone(),
                text: chunk.text.clone(),
                finish: finish.map(|finish| (finish.reason, finish.counts)),
            },
        })
    }

    /// Tells it. Never waits.
    pub(crate) fn tell(&self, event: Option<TapEvent>) {
        if let (Some(events), Some(event)) = (&self.events, event)
            && events.try_send(event).is_err()
        {
            self.metrics.tap_dropped.inc();
        }
    }
}

impl TapLoop {
    /// Runs until `stopping`, and then until the queue is empty.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        loop {
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = stopping.cancelled() => self.events.try_recv().ok(),
            };
            let Some(event) = event else { return };
            let subject = Subject::new(tenant_events_subject(&event.tenant, &event.tokens.model));
            let payload = match self.form {
                TapForm::Protobuf => encode_tenant_tokens(&event.tokens),
                TapForm::Json => json_form(&event.tokens),
            };
            match self.bus.publish(&subject, payload).await {
                Ok(()) => self.metrics.tap_sent.inc(),
                // The next one may go through; the log would fill with an outage that others tell of.
                Err(_error) => self.metrics.tap_dropped.inc(),
            };
        }
    }
}

fn json_form(event: &TenantTokens) -> Bytes {
    let counts = event.finish.map(|(_, counts)| {
        json!({"prompt": counts.prompt, "cached": counts.cached, "completion": counts.completion})
    });
    let told = json!({
        "version": JSON_VERSION,
        "request_id": event.request_id.to_string(),
        "model": event.model.as_str(),
        "key": event.key.as_str(),
        "position": event.position,
        "ids": event.ids,
        "text": event.text,
        "finish": event.finish.map(|(reason, _)| reason.name()),
        "counts": counts,
    });
    told.to_string().into()
}

#[cfg(test)]
mod tests {
    use vlinders_bus::{InProcessBus, InProcessLimits, Subscription};
    use vlinders_service_kit::Metrics;
    use vlinders_types::{Finish, FinishReason, TokenCounts};

    use super::*;
    use crate::streams::test_request;

    async fn world(
        form: Option<TapForm>,
    ) -> (Tap, Option<TapLoop>, Box<dyn Subscription>, Arc<FrontendMetrics>) {
        let bus: Arc<dyn Bus> = Arc::new(InProcessBus::new(InProcessLimits::default()));
        let events = bus.subscribe(&Subject::new("vl.ev.>")).await.unwrap();
        let metrics = Arc::new(FrontendMetrics::new(Metrics::default()));
        let (tap, flow) = Tap::new(form, &bus, &metrics);
        (tap, flow, events, metrics)
    }

    fn last() -> Chunk {
        let finish = Finish {
            reason: FinishReason::Stop,
            stop_text: None,
            counts: TokenCounts {
                prompt: 3,
                cached: 1,
                completion: 2,
            },
            fault: None,
        };
        Chunk {
            position: 1,
            ids: vec![7],
            text: "so".to_owned(),
            finish: Some(finish),
            ..Chunk::default()
        }
    }

    #[tokio::test]
    async fn both_forms_say_the_same_on_the_tenants_subject() {
        for form in [TapForm::Protobuf, TapForm::Json] {
            let (tap, flow, mut events, _metrics) = world(Some(form)).await;
            let request = test_request(5);
            tap.tell(tap.look(&request, &last()));
            let stopping = CancellationToken::new();
            stopping.cancel();
            flow.unwrap().run(stopping).await;
            let event = events.next().await.unwrap();
            assert_eq!(
                event.subject.as_str(),
                tenant_events_subject(&request.tenant, &request.model)
            );
            match form {
                TapForm::Protobuf => {
                    let told = vlinders_wire::decode_tenant_tokens(&event.payload).unwrap();
                    assert_eq!((told.position, told.text.as_str()), (1, "so"));
                    assert_eq!(told.finish.unwrap().1.completion, 2);
                }
                TapForm::Json => {
                    let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                    let expected = json!({"version": 1, "request_id": request.request_id.to_string(),
                        "model": request.model.as_str(), "key": request.key.as_str(), "position": 1, "ids": [7],
                        "text": "so", "finish": "stop", "counts": {"prompt": 3, "cached": 1, "completion": 2}});
                    assert_eq!(told, expected);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_the_bus_does_not_take_in_time_is_counted_and_gone() {
        let (tap, _flow, _events, metrics) = world(Some(TapForm::Json)).await;
        let request = test_request(5);
        for _ in 0..QUEUE + 3 {
            tap.tell(tap.look(&request, &last()));
        }
        assert_eq!(metrics.tap_dropped.get(), 3);
    }

    #[tokio::test]
    async fn a_closed_tap_looks_at_nothing() {
        let (tap, flow, _events, _metrics) = world(None).await;
        assert!(flow.is_none() && tap.look(&test_request(5), &last()).is_none());
    }
}
