//! What a connection does not put up with.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use vlinders_bus::{
    Bus, BusError, ConnectError, NatsBus, NatsFatal, NatsLogin, NatsOptions, StreamName, Subject,
};

use crate::server::{LONG, Server, rules};

/// A worker that may do all it needs but give usage.
const USERS: &str = r#"
authorization { users: [
    { user: "worker", password: "secret", permissions: { publish: { deny: ["vl.usage.>"] }, subscribe: { deny: ["vl.ev.>"] } } }
] }
"#;

fn worker(server: &Server) -> NatsOptions {
    let login = NatsLogin::Password {
        user: "worker".to_owned(),
        password: "secret".to_owned(),
    };
    NatsOptions {
        login,
        ..server.options()
    }
}

/// Greets one caller after the other as a server of this version would.
async fn greeter(version: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let greeting = format!(
        "INFO {{\"server_id\":\"X\",\"version\":\"{version}\",\"headers\":true,\"max_payload\":1048576}}\r\n"
    );
    tokio_util::task::TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(greeting.as_bytes()).await.unwrap();
        }
    });
    format!("nats://{address}")
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_at_once() {
    let began = Instant::now();
    let refused = NatsBus::connect(NatsOptions::new(vec![greeter("2.10.29").await])).await;
    let Err(ConnectError::TooOld { version, .. }) = refused else {
        panic!("{:?}", refused.err());
    };
    assert_eq!(version, "2.10.29");
    assert!(began.elapsed() < LONG);
}

#[tokio::test]
async fn a_wrong_password_is_refused_at_once() {
    let server = Server::with_config(USERS);
    let began = Instant::now();
    let wrong = NatsLogin::Password {
        user: "worker".to_owned(),
        password: "guess".to_owned(),
    };
    for login in [wrong, NatsLogin::Nobody] {
        let options = NatsOptions {
            login,
            ..server.options()
        };
        let refused = NatsBus::connect(options).await.err();
        assert!(
            matches!(refused, Some(ConnectError::Refused { .. })),
            "{refused:?}"
        );
    }
    assert!(began.elapsed() < LONG);
}

#[tokio::test]
async fn nobody_there_is_an_error_after_the_start_limit() {
    let server = Server::stopped("");
    let options = NatsOptions {
        start_limit: Duration::from_millis(300),
        ..server.options()
    };
    let Err(ConnectError::Unreachable { servers, .. }) = NatsBus::connect(options).await else {
        panic!("nobody is there");
    };
    assert!(servers.contains(&server.port.to_string()), "{servers}");
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for() {
    let mut server = Server::stopped("");
    let options = server.options();
    let (bus, ()) = tokio::join!(NatsBus::connect(options), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.run();
    });
    let bus = bus.unwrap();
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
}

#[tokio::test]
async fn a_missing_permission_to_send_is_fatal() {
    let server = Server::with_config(USERS);
    let bus = server.bus_with(worker(&server)).await;
    bus.ensure_stream(StreamName::Usage, rules()).await.unwrap();
    let none = timeout(Duration::from_millis(100), bus.fatal()).await;
    assert!(none.is_err(), "nothing is wrong yet");
    // The call ends at once, not after its timeout.
    let began = Instant::now();
    let refused = bus
        .enqueue(StreamName::Usage, &Subject::new("vl.usage.t"), "1", Bytes::new())
        .await;
    assert!(matches!(refused, Err(BusError::Refused(_))), "{refused:?}");
    assert!(began.elapsed() < bus_call_timeout());
    let NatsFatal::Permission(text) = timeout(LONG, bus.fatal()).await.unwrap() else {
        panic!("the permission is what is missing");
    };
    assert!(text.contains("vl.usage.t"), "{text}");
}

fn bus_call_timeout() -> Duration {
    NatsOptions::new(Vec::new()).call_timeout
}

#[tokio::test]
async fn a_missing_permission_to_listen_is_fatal() {
    let server = Server::with_config(USERS);
    let bus = server.bus_with(worker(&server)).await;
    let _subscription = bus.subscribe(&Subject::new("vl.ev.>")).await.unwrap();
    let reason = timeout(LONG, bus.fatal()).await.unwrap();
    assert!(matches!(reason, NatsFatal::Permission(_)), "{reason}");
}

#[tokio::test]
async fn a_message_beyond_the_servers_limit_is_refused() {
    let server = Server::with_config("max_payload: 1000");
    let bus = server.bus().await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let subject = Subject::new("vl.req.m.q");
    let payload = Bytes::from(vec![0; 1001]);
    let too_large = BusError::TooLarge {
        bytes: 1001,
        limit_bytes: 1000,
    };
    assert_eq!(
        bus.publish(&subject, payload.clone()).await,
        Err(too_large.clone())
    );
    assert_eq!(
        bus.request(&subject, payload.clone(), LONG).await,
        Err(too_large.clone())
    );
    assert_eq!(
        bus.enqueue(StreamName::Requests, &subject, "1", payload).await,
        Err(too_large)
    );
}

#[tokio::test]
async fn a_closed_bus_refuses_every_call() {
    let server = Server::start();
    let bus = server.bus().await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    let consumer = bus
        .consumer(crate::server::everything(StreamName::Requests))
        .await
        .unwrap();
    let mut subscription = bus.subscribe(&Subject::new("a")).await.unwrap();
    let (fetched, ()) = tokio::join!(consumer.fetch(1, LONG), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bus.close().await;
    });
    assert!(matches!(fetched, Err(BusError::Closed(_))));
    assert!(subscription.next().await.is_none());
    let sent = bus.publish(&Subject::new("a"), Bytes::new()).await;
    assert!(matches!(sent, Err(BusError::Closed(_))), "{sent:?}");
    let counted = bus.pending(StreamName::Requests).await;
    assert!(matches!(counted, Err(BusError::Closed(_))), "{counted:?}");
}

#[tokio::test]
async fn a_stream_nobody_made_is_named() {
    let server = Server::start();
    let bus = server.bus().await;
    let none = BusError::NoStream { stream: "VL_REQ" };
    let subject = Subject::new("vl.req.m.q");
    assert_eq!(
        bus.enqueue(StreamName::Requests, &subject, "1", Bytes::new())
            .await,
        Err(none.clone())
    );
    assert_eq!(bus.pending(StreamName::Requests).await, Err(none.clone()));
    let consumer = bus
        .consumer(crate::server::everything(StreamName::Requests))
        .await;
    assert_eq!(consumer.err(), Some(none));
}
