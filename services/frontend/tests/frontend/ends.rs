//! Requests that do not end well: the client leaves, reads slowly, waits too long, or a worker fails.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vlinders_bus::{Bus, Subject};
use vlinders_frontend::FrontendConfig;
use vlinders_types::{FaultKind, FinishReason};
use vlinders_wire::decode_resend;
use vlinders_wire::subjects::{WorkerCall, worker_subject};

use crate::support::{QUIET, Setting, World, chat_body, check_error, chunk, fault, last, within};

fn setting(config: FrontendConfig) -> Setting {
    Setting {
        config: FrontendConfig {
            beacon_fresh: QUIET,
            ..config
        },
        ..Default::default()
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_cancels_its_request() {
    let mut world = World::new().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        request
    };
    let asked = json!({"stream": true});
    let (response, request) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    drop(response);
    assert_eq!(world.cancel().await.request_id, request.request_id);
    assert_eq!(world.frontend.requests_in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_cancels_its_request() {
    let mut world = World::new().await;
    for is_streamed in [true, false] {
        let asked = json!({"stream": is_streamed});
        let request = {
            let mut asking = Box::pin(world.chat(&asked).send());
            tokio::select! {
                _ = &mut asking => panic!("nothing was answered"),
                request = world.take() => request,
            }
        };
        assert_eq!(world.cancel().await.request_id, request.request_id);
    }
}

#[tokio::test]
async fn a_request_that_ended_is_not_cancelled() {
    let mut world = World::new().await;
    for is_streamed in [true, false] {
        let worker = async {
            let request = world.take().await;
            world.answer(&request, "A").await;
        };
        let asked = json!({"stream": is_streamed});
        let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
        within(response.unwrap().text()).await.unwrap();
    }
    let left = {
        let asked = json!({});
        let mut asking = Box::pin(world.chat(&asked).send());
        tokio::select! { _ = &mut asking => panic!("nothing was answered"), request = world.take() => request }
    };
    // The first cancellation that arrives is the one of the request that was left.
    assert_eq!(world.cancel().await.request_id, left.request_id);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cancelled() {
    let mut world = World::with(setting(FrontendConfig {
        stream_buffer_bytes: 64 * 1024,
        ..Default::default()
    }))
    .await;
    let body = chat_body(&json!({"stream": true})).to_string();
    let mut socket = TcpStream::connect(world.frontend.address()).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    let request = world.take().await;
    let text = "a".repeat(32 * 1024);
    let mut sent = 0;
    while world.frontend.requests_in_flight() > 0 {
        world.send(&request, vec![chunk(sent, 1, &text)]).await;
        sent += 1;
        assert!(sent < 10_000, "the buffers between us are not so large");
        tokio::task::yield_now().await;
    }
    assert_eq!(world.cancel().await.request_id, request.request_id);
    // Once it reads again, it learns why.
    let mut rest = Vec::new();
    let reading = async {
        while !rest.ends_with(b"0\r\n\r\n") {
            let mut piece = vec![0; 1 << 16];
            let count = socket.read(&mut piece).await.unwrap();
            assert!(count > 0, "closed early");
            rest.extend_from_slice(&piece[..count]);
        }
    };
    within(reading).await;
    assert!(String::from_utf8_lossy(&rest).contains("\"code\":\"client_too_slow\""));
}

#[tokio::test]
async fn a_client_without_progress_is_cancelled_and_cut_off() {
    let mut world = World::with(setting(FrontendConfig {
        stalled_client: Duration::from_millis(200),
        stream_buffer_bytes: 64 << 20,
        ..Default::default()
    }))
    .await;
    let body = chat_body(&json!({"stream": true})).to_string();
    let mut socket = TcpStream::connect(world.frontend.address()).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    let request = world.take().await;
    let text = "a".repeat(1 << 20);
    for position in 0..32 {
        world.send(&request, vec![chunk(position, 1, &text)]).await;
    }
    assert_eq!(world.cancel().await.request_id, request.request_id);
    // Only the question is left open; what was cut off is closed before anything of it is read.
    let open = "vlinders_http_connections{} 1.0\n";
    within(async {
        while !world.metrics().await.contains(open) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // What the buffers hold can be read, and then there is no proper end.
    let mut rest = Vec::new();
    let _cut = within(socket.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn a_lost_batch_is_asked_for_again_and_the_stream_goes_on() {
    let world = World::new().await;
    let subject = Subject::new(worker_subject(&crate::support::worker(), WorkerCall::Resend));
    let mut resends = world.bus.subscribe(&subject).await.unwrap();
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        world.lose_batches(2);
        world
            .send(&request, vec![last(3, 1, "D", FinishReason::Stop)])
            .await;
        let resend = decode_resend(&within(resends.next()).await.unwrap().payload).unwrap();
        assert_eq!(
            (resend.frontend, resend.epoch.0, resend.from_seq),
            (request.frontend.clone(), 1, 2)
        );
        world
            .send(&request, vec![chunk(1, 1, "B"), chunk(2, 1, "C")])
            .await;
    };
    let asked = json!({});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let body: Value = within(response.unwrap().json()).await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "ABCD");
}

#[tokio::test]
async fn a_deadline_is_a_504_and_a_cancellation() {
    let config = FrontendConfig {
        request_deadline: Duration::from_millis(150),
        ..Default::default()
    };
    let mut world = World::with(setting(config)).await;
    for is_streamed in [true, false] {
        let response = within(world.chat(&json!({"stream": is_streamed})).send())
            .await
            .unwrap();
        check_error(response, 504, "deadline_exceeded").await;
        let request = world.take().await;
        assert_eq!(world.cancel().await.request_id, request.request_id);
    }
}

#[tokio::test]
async fn a_deadline_in_a_stream_is_an_event_and_the_end() {
    let config = FrontendConfig {
        request_deadline: Duration::from_millis(150),
        ..Default::default()
    };
    let world = World::with(setting(config)).await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
    };
    let asked = json!({"stream": true});
    let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let text = within(response.unwrap().text()).await.unwrap();
    let (_, last) = text.trim_end().rsplit_once("\n\n").unwrap();
    let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(event["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn faults_of_workers_have_their_status_streamed_or_not() {
    let world = World::new().await;
    for (kind, status, code) in [
        (FaultKind::Invalid, 400, "invalid_request"),
        (FaultKind::Overloaded, 503, "overloaded"),
        (FaultKind::Deadline, 504, "deadline_exceeded"),
        (FaultKind::Internal, 500, "internal_error"),
    ] {
        for is_streamed in [true, false] {
            let worker = async {
                let request = world.take().await;
                world.send(&request, vec![fault(0, kind)]).await;
            };
            let asked = json!({"stream": is_streamed});
            let (response, ()) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
            let error = check_error(response.unwrap(), status, code).await;
            let shows_workers_words = error["message"] == "the worker's own words";
            assert_eq!(shows_workers_words, kind == FaultKind::Invalid);
        }
    }
}

#[tokio::test]
async fn a_fault_in_a_stream_is_an_event_and_the_end() {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        request
    };
    let asked = json!({"stream": true});
    let (response, request) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    world.send(&request, vec![fault(1, FaultKind::Internal)]).await;
    let text = within(response.unwrap().text()).await.unwrap();
    assert!(
        text.ends_with("\"param\":null,\"code\":\"internal_error\"}}\n\n"),
        "{text}"
    );
    assert!(!text.contains("[DONE]"));
}

#[tokio::test]
async fn a_stop_finishes_streams_and_takes_nothing_new() {
    let world = World::new().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        request
    };
    let asked = json!({"stream": true});
    let (response, request) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let stop = world.tasks.stop(Duration::from_secs(10));
    let finish = async {
        world
            .tasks
            .stopping(vlinders_service_kit::Stage::Intake)
            .cancelled()
            .await;
        world
            .send(&request, vec![last(1, 1, "B", FinishReason::Stop)])
            .await;
        within(response.unwrap().text()).await.unwrap()
    };
    let (stopped, text) = within(async { tokio::join!(stop, finish) }).await;
    stopped.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(TcpStream::connect(world.frontend.address()).await.is_err());
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_ended_when_the_drain_is_over() {
    let config = FrontendConfig {
        drain: Duration::from_millis(100),
        ..Default::default()
    };
    let mut world = World::with(setting(config)).await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "A")]).await;
        request
    };
    let asked = json!({"stream": true});
    let (response, request) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    let text = async { within(response.unwrap().text()).await.unwrap() };
    let (stopped, text) = tokio::join!(world.tasks.stop(Duration::from_secs(10)), text);
    stopped.unwrap();
    assert!(text.contains("\"code\":\"shutting_down\""), "{text}");
    assert_eq!(world.cancel().await.request_id, request.request_id);
}
