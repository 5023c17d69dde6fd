//! Streams that outlive their workers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use vlinders_bus::{Bus, ConsumerSpec, StreamName, StreamRules, Subject};
use vlinders_frontend::FrontendConfig;
use vlinders_service_kit::Stage;
use vlinders_types::{Chunk, Epoch, FinishReason, Pool, Request, WorkerId};
use vlinders_wire::subjects::{self, ALL_USAGE};
use vlinders_wire::{decode_usage_event, encode_beacon};

use crate::support::{Setting, World, beacon_of, check_error, chunk, last, within, worker};

/// A worker that lives through the whole test, so that the other's silence means something.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) other: WorkerId,
    _beacons: DropGuard,
}

impl Scene {
    pub(crate) async fn new(config: FrontendConfig) -> Self {
        let setting = Setting {
            config,
            ..Default::default()
        };
        let (world, other) = (World::with(setting).await, WorkerId::new("other"));
        let (bus, end) = (Arc::clone(&world.bus), CancellationToken::new());
        let (name, ended) = (other.clone(), end.clone());
        let beacons = async move {
            while !ended.is_cancelled() {
                for pool in [Pool::Prefill, Pool::Decode] {
                    let subject = Subject::new(subjects::beacon_subject(pool, &name));
                    let beacon = encode_beacon(&beacon_of(&name, pool, 1));
                    let _closed = bus.publish(&subject, beacon).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        world.tasks.spawn(Stage::Flush, "beacons", beacons);
        Self {
            world,
            other,
            _beacons: end.drop_guard(),
        }
    }

    /// The other worker sends chunks of this request's attempt.
    pub(crate) async fn go_on(&self, request: &Request, chunks: Vec<Chunk>) {
        let attempt = request.attempt;
        let chunks = chunks.into_iter().map(|chunk| Chunk { attempt, ..chunk });
        self.world
            .send_from(&self.other, Epoch(1), request, chunks.collect())
            .await;
    }

    /// The first worker begins another life.
    async fn restart(&self, epoch: u64) {
        let subject = Subject::new(subjects::beacon_subject(Pool::Decode, &worker()));
        let beacon = encode_beacon(&beacon_of(&worker(), Pool::Decode, epoch));
        let sent = self.world.bus.publish(&subject, beacon).await;
        sent.expect("the bus is open");
    }

    pub(crate) async fn metrics(&self) -> String {
        let text = within(self.world.get("/metrics").await.text()).await;
        text.expect("metrics are text")
    }
}

fn quick() -> FrontendConfig {
    FrontendConfig {
        beacon_fresh: Duration::from_millis(900),
        ..Default::default()
    }
}

/// The text of a chat answer, streamed or not, after checking that it is one: one role, one usage, one end.
pub(crate) fn text_of(answer: &str, is_streamed: bool) -> String {
    if !is_streamed {
        let body: Value = serde_json::from_str(answer).expect("an answer is JSON");
        assert_eq!(body["usage"]["completion_tokens"], 4);
        return body["choices"][0]["message"]["content"]
            .as_str()
            .expect("a message has content")
            .to_owned();
    }
    let (events, end) = answer
        .trim_end()
        .rsplit_once("\n\n")
        .expect("more than one event");
    assert_eq!(end, "data: [DONE]");
    assert_eq!(events.matches("\"role\":\"assistant\"").count(), 1, "{events}");
    assert_eq!(events.matches("\"completion_tokens\":4").count(), 1, "{events}");
    assert_eq!(
        events.matches("\"finish_reason\":\"stop\"").count(),
        1,
        "{events}"
    );
    let contents = events.split("\n\n").filter_map(|event| {
        let event: Value = serde_json::from_str(event.strip_prefix("data: ")?).ok()?;
        Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned())
    });
    contents.collect()
}

#[tokio::test]
async fn a_stream_whose_worker_falls_silent_goes_on_elsewhere_and_shows_no_seam() {
    let mut scene = Scene::new(quick()).await;
    for is_streamed in [true, false] {
        scene.world.send_beacons().await;
        let mut asked = json!({"stream": is_streamed});
        if is_streamed {
            asked["stream_options"] = json!({"include_usage": true});
        }
        let workers = async {
            let request = scene.world.take().await;
            scene.world.send(&request, vec![chunk(0, 1, "A")]).await;
            scene.world.send(&request, vec![chunk(1, 1, "B")]).await;
            let again = scene.world.take().await;
            let expected = Request {
                attempt: 1,
                emitted_ids: vec![65; 2],
                priority: request.priority + 1,
                ..request.clone()
            };
            assert_eq!(again, expected);
            // The silent worker was only slow: it goes on, and even ends.
            scene.world.send(&request, vec![chunk(2, 1, "late")]).await;
            let late_end = last(3, 1, "late", FinishReason::Length);
            scene.world.send(&request, vec![late_end]).await;
            scene
                .go_on(&again, vec![chunk(2, 1, "C"), chunk(2, 1, "C")])
                .await;
            scene
                .go_on(&again, vec![last(3, 1, "D", FinishReason::Stop)])
                .await;
            let late_end = last(3, 1, "late", FinishReason::Length);
            scene.world.send(&request, vec![late_end]).await;
            request
        };
        let answer = async {
            within(scene.world.chat(&asked).send())
                .await
                .unwrap()
                .text()
                .await
        };
        let (answer, request) = within(async { tokio::join!(answer, workers) }).await;
        assert_eq!(text_of(&answer.unwrap(), is_streamed), "ABCD");
        let cancel = scene.world.cancel().await;
        assert_eq!(
            (cancel.request_id, cancel.attempt, cancel.superseded),
            (request.request_id, 0, true)
        );
        // The late chunks were answered with one more word at most.
        scene.world.forget_cancels().await;
    }
    let metrics = scene.metrics().await;
    assert!(
        metrics.contains("vlinders_failovers_total{reason=\"no_responders\"} 2"),
        "{metrics}"
    );
    assert_eq!(scene.world.frontend.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_new_life_of_a_worker_and_a_hole_in_its_chunks_move_its_streams_at_once() {
    let scene = Scene::new(FrontendConfig::default()).await;
    let workers = async {
        let request = scene.world.take().await;
        scene.world.send(&request, vec![chunk(0, 1, "A")]).await;
        scene.restart(2).await;
        let second = scene.world.take().await;
        assert_eq!((second.attempt, second.emitted_ids.len()), (1, 1));
        // Half of it is known: it cannot be joined.
        scene
            .go_on(&second, vec![chunk(1, 1, "B"), chunk(1, 2, "BC")])
            .await;
        let third = scene.world.take().await;
        assert_eq!((third.attempt, third.emitted_ids.len()), (2, 2));
        assert_eq!(third.deadline_ms, request.deadline_ms);
        let end = last(3, 1, "D", FinishReason::Stop);
        scene.go_on(&third, vec![chunk(2, 1, "C"), end]).await;
    };
    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = async {
        within(scene.world.chat(&asked).send())
            .await
            .unwrap()
            .text()
            .await
    };
    let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
    assert_eq!(text_of(&answer.unwrap(), true), "ABCD");
    let metrics = scene.metrics().await;
    for cause in ["restarted", "gap"] {
        let line = format!("vlinders_failovers_total{{reason=\"{cause}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn a_request_that_was_only_taken_goes_on_elsewhere_when_its_taker_is_lost() {
    let scene = Scene::new(FrontendConfig::default()).await;
    for (is_streamed, life) in [(true, 2), (false, 5)] {
        scene.restart(life).await;
        let workers = async {
            let request = scene.world.take().await;
            let word = Chunk::default();
            scene
                .world
                .send_from(&worker(), Epoch(life), &request, vec![word])
                .await;
            scene.restart(life + 1).await;
            let second = scene.world.take().await;
            assert_eq!((second.attempt, second.emitted_ids.len()), (1, 0));
            let end = last(3, 1, "D", FinishReason::Stop);
            // Its own word shows no seam either.
            let chunks = vec![Chunk::default(), chunk(0, 1, "A"), chunk(1, 2, "BC"), end];
            scene.go_on(&second, chunks).await;
        };
        let mut asked = json!({"stream": is_streamed});
        if is_streamed {
            asked["stream_options"] = json!({"include_usage": true});
        }
        let answer = async {
            let answer = within(scene.world.chat(&asked).send()).await;
            answer.unwrap().text().await
        };
        let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
        assert_eq!(text_of(&answer.unwrap(), is_streamed), "ABCD");
    }
}

#[tokio::test]
async fn when_every_attempt_is_lost_the_client_is_told_and_billed_for_what_it_got() {
    let config = FrontendConfig {
        max_attempts: 2,
        ..Default::default()
    };
    let scene = Scene::new(config).await;
    let rules = StreamRules {
        max_messages: 100,
        max_age: Duration::from_secs(600),
        dedup_window: Duration::from_secs(120),
    };
    scene
        .world
        .bus
        .ensure_stream(StreamName::Usage, rules)
        .await
        .unwrap();
    for is_streamed in [true, false] {
        let base = if is_streamed { 2 } else { 4 };
        let workers = async {
            let request = scene.world.take().await;
            let epoch = Epoch(base - 1);
            scene
                .world
                .send_from(&worker(), epoch, &request, vec![chunk(0, 1, "A")])
                .await;
            scene.restart(base).await;
            let second = scene.world.take().await;
            let more = Chunk {
                attempt: 1,
                ..chunk(1, 1, "B")
            };
            scene
                .world
                .send_from(&worker(), Epoch(base), &second, vec![more])
                .await;
            scene.restart(base + 1).await;
        };
        let asked = json!({"stream": is_streamed});
        let answer = async { within(scene.world.chat(&asked).send()).await.unwrap() };
        let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
        if is_streamed {
            let text = within(answer.text()).await.unwrap();
            assert!(text.contains("\"code\":\"workers_lost\""), "{text}");
            assert!(text.contains("\"B\"") && !text.contains("[DONE]"), "{text}");
        } else {
            check_error(answer, 502, "workers_lost").await;
        }
    }
    let spec = ConsumerSpec {
        stream: StreamName::Usage,
        filter: Subject::new(ALL_USAGE),
        name: "ledger".to_owned(),
        ack_wait: Duration::from_secs(60),
        max_deliver: 3,
    };
    let usage = scene.world.bus.consumer(spec).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 2 {
        let deliveries = within(usage.fetch(10, Duration::from_secs(5))).await.unwrap();
        events.extend(
            deliveries
                .iter()
                .map(|one| decode_usage_event(&one.payload).unwrap()),
        );
    }
    assert!(
        events
            .iter()
            .all(|event| (event.counts.completion, event.finish) == (2, FinishReason::Error))
    );
}

#[tokio::test]
async fn a_request_nobody_speaks_of_is_sent_again_only_when_the_queue_is_done_with_it() {
    let config = FrontendConfig {
        first_token_patience: Duration::from_millis(100),
        ..Default::default()
    };
    let scene = Scene::new(config).await;
    let workers = async {
        // Taken and not acknowledged: if that worker is lost, the queue delivers it again by itself.
        let (_request, delivery) = scene.world.take_unacknowledged().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            scene.world.bus_pending().await,
            1,
            "dispatched twice without need"
        );
        delivery.control.ack().await.unwrap();
        let second = scene.world.take().await;
        assert_eq!((second.attempt, second.emitted_ids.len()), (1, 0));
        scene
            .go_on(&second, vec![last(0, 1, "A", FinishReason::Stop)])
            .await;
    };
    let asked = json!({});
    let answer = async { within(scene.world.chat(&asked).send()).await.unwrap() };
    let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
    let body: Value = within(answer.json()).await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "A");
}
