//! Workers that leave in good order: their streams go on elsewhere at once, and nobody waits out a silence.

use std::time::Duration;

use serde_json::json;
use vlinders_bus::{Bus, ConsumerSpec, StreamName, StreamRules, Subject};
use vlinders_frontend::FrontendConfig;
use vlinders_types::{Beacon, Chunk, FinishReason, Pool, Presence};
use vlinders_wire::subjects::{ALL_USAGE, beacon_subject};
use vlinders_wire::{decode_usage_event, encode_beacon};

use crate::failover::{Scene, text_of};
use crate::support::{World, beacon_of, check_error, chunk, last, within, worker};

/// No silence is noticed while a test runs.
fn patient() -> FrontendConfig {
    FrontendConfig {
        beacon_fresh: Duration::from_secs(600),
        first_token_patience: Duration::from_secs(600),
        ..Default::default()
    }
}

fn handed_back(chunk: Chunk) -> Chunk {
    Chunk {
        handed_back: true,
        ..chunk
    }
}

/// The first worker says how it stands.
async fn tell(world: &World, pool: Pool, presence: Presence) {
    let beacon = Beacon {
        presence,
        ..beacon_of(&worker(), pool, 1)
    };
    let subject = Subject::new(beacon_subject(pool, &worker()));
    let sent = world.bus.publish(&subject, encode_beacon(&beacon)).await;
    sent.expect("the bus is open");
}

#[tokio::test]
async fn a_stream_that_is_handed_back_goes_on_elsewhere_and_shows_no_seam() {
    // Handing back loses nothing, so it is no lost attempt.
    let config = FrontendConfig {
        max_attempts: 1,
        ..patient()
    };
    let scene = Scene::new(config).await;
    for is_streamed in [true, false] {
        let mut asked = json!({"stream": is_streamed});
        if is_streamed {
            asked["stream_options"] = json!({"include_usage": true});
        }
        let workers = async {
            let request = scene.world.take().await;
            // The last words overtake the ones before: they count when they are complete.
            let parting = handed_back(chunk(1, 1, "B"));
            scene.world.send(&request, vec![parting.clone()]).await;
            scene.world.send(&request, vec![chunk(0, 1, "A")]).await;
            let second = scene.world.take().await;
            assert_eq!((second.attempt, second.emitted_ids.len()), (1, 2));
            // It comes once more, which means nothing.
            scene.world.send(&request, vec![parting]).await;
            scene.go_on(&second, vec![handed_back(chunk(2, 0, ""))]).await;
            let third = scene.world.take().await;
            assert_eq!((third.attempt, third.emitted_ids.len()), (2, 2));
            let end = last(3, 1, "D", FinishReason::Stop);
            scene.go_on(&third, vec![chunk(2, 1, "C"), end]).await;
        };
        let answer = async {
            let answer = within(scene.world.chat(&asked).send()).await;
            answer.expect("an answer").text().await
        };
        let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
        assert_eq!(text_of(&answer.expect("text"), is_streamed), "ABCD");
    }
    let metrics = scene.metrics().await;
    assert!(
        metrics.contains("vlinders_failovers_total{reason=\"handed_back\"} 4"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_stream_handed_back_when_no_other_worker_is_there_ends_with_a_clear_error_and_a_bill() {
    let world = World::with(crate::support::Setting {
        config: patient(),
        ..Default::default()
    })
    .await;
    let rules = StreamRules {
        max_messages: 100,
        max_age: Duration::from_secs(600),
        dedup_window: Duration::from_secs(120),
    };
    let made = world.bus.ensure_stream(StreamName::Usage, rules).await;
    made.expect("a new stream");
    for is_streamed in [true, false] {
        let workers = async {
            let request = world.take().await;
            let parting = handed_back(chunk(1, 1, "B"));
            world.send(&request, vec![chunk(0, 1, "A"), parting]).await;
        };
        let asked = json!({"stream": is_streamed});
        let answer = async { within(world.chat(&asked).send()).await.expect("an answer") };
        let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
        if is_streamed {
            let text = within(answer.text()).await.expect("text");
            assert!(text.contains("\"code\":\"shutting_down\""), "{text}");
            assert!(text.contains("B\"") && !text.contains("[DONE]"), "{text}");
        } else {
            check_error(answer, 503, "shutting_down").await;
        }
    }
    let spec = ConsumerSpec {
        stream: StreamName::Usage,
        filter: Subject::new(ALL_USAGE),
        name: "ledger".to_owned(),
        ack_wait: Duration::from_secs(60),
        max_deliver: 3,
    };
    let usage = world.bus.consumer(spec).await.expect("a new consumer");
    for _ in 0..2 {
        let bill = within(usage.fetch(1, Duration::from_secs(60))).await;
        let bill = decode_usage_event(&bill.expect("the bus is open")[0].payload).expect("an event");
        assert_eq!((bill.counts.completion, bill.finish), (2, FinishReason::Error));
    }
    assert_eq!(world.bus_pending().await, 0, "nobody is there to take it");
}

#[tokio::test]
async fn what_a_worker_that_has_left_did_not_get_through_goes_on_elsewhere_soon() {
    let scene = Scene::new(patient()).await;
    let workers = async {
        let request = scene.world.take().await;
        scene.world.send(&request, vec![chunk(0, 1, "A")]).await;
        tell(&scene.world, Pool::Decode, Presence::Draining).await;
        tell(&scene.world, Pool::Decode, Presence::Left).await;
        // Said before, heard after: it lives no more for that.
        scene.world.send(&request, vec![chunk(1, 1, "B")]).await;
        let second = scene.world.take().await;
        // What still came in time.
        let known = second.emitted_ids.len();
        assert!(second.attempt == 1 && (1..=2).contains(&known), "{second:?}");
        let count = 4 - u32::try_from(known).expect("two at most");
        let end = last(4 - count, count, &"ABCD"[known..], FinishReason::Stop);
        scene.go_on(&second, vec![end]).await;
    };
    let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = async {
        let answer = within(scene.world.chat(&asked).send()).await;
        answer.expect("an answer").text().await
    };
    let (answer, ()) = within(async { tokio::join!(answer, workers) }).await;
    assert_eq!(text_of(&answer.expect("text"), true), "ABCD");
    let metrics = scene.metrics().await;
    assert!(
        metrics.contains("vlinders_failovers_total{reason=\"left\"} 1"),
        "{metrics}"
    );
}
