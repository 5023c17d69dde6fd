//! Claims about subjects without storage.

use std::sync::Arc;

use super::{Bench, LONG, SHORT, bytes, next_text, text};
use crate::{Bus, BusError, Subject};

/// Messages of one sender reach a subscriber in the order sent, over several subjects too.
pub async fn messages_arrive_in_the_order_sent(bus: Arc<dyn Bus>) {
    let bench = Bench { bus };
    let (mut exact, mut all) = (bench.listen("order.a").await, bench.listen("order.*").await);
    for number in 0..100 {
        let subject = if number % 2 == 0 { "order.a" } else { "order.b" };
        bench.send(subject, &number.to_string()).await;
    }
    for number in 0..100 {
        assert_eq!(next_text(&mut *all).await, Some(number.to_string()));
    }
    for number in (0..100).step_by(2) {
        assert_eq!(next_text(&mut *exact).await, Some(number.to_string()));
    }
}

/// `*` stands for exactly one token, `>` for one or more at the end.
pub async fn wildcards_match_as_documented(bus: Arc<dyn Bus>) {
    let bench = Bench { bus };
    let cases = [
        ("w.a", vec!["w.a"]),
        ("w.*", vec!["w.a", "w.b"]),
        ("w.>", vec!["w.a", "w.b", "w.a.c"]),
        ("w.*.c", vec!["w.a.c"]),
        ("*.a", vec!["w.a"]),
        ("w.x", vec![]),
    ];
    let mut subscriptions = Vec::new();
    for (pattern, _) in &cases {
        subscriptions.push(bench.listen(pattern).await);
    }
    for subject in ["w.a", "w.b", "w.a.c", "w"] {
        bench.send(subject, subject).await;
    }
    for ((pattern, expected), subscription) in cases.iter().zip(&mut subscriptions) {
        let mut received = Vec::new();
        while let Some(text) = next_text(&mut **subscription).await {
            received.push(text);
        }
        assert_eq!(&received, expected, "{pattern}");
    }
}

/// Nobody has to listen.
pub async fn publishing_to_nobody_is_no_error(bus: Arc<dyn Bus>) {
    Bench { bus }.send("nobody.here", "hello").await;
}

/// A dropped subscription receives nothing and no longer counts as a responder.
pub async fn an_ended_subscription_gets_nothing_more(bus: Arc<dyn Bus>) {
    let bench = Bench { bus };
    let subject = Subject::new("ended.a");
    for pattern in ["ended.a", "ended.*"] {
        drop(bench.listen(pattern).await);
    }
    // A broker learns of the end a little later.
    tokio::time::sleep(SHORT).await;
    let asked = bench.bus.request(&subject, bytes("?"), LONG).await;
    assert_eq!(
        asked,
        Err(BusError::NoResponders {
            subject: subject.to_string()
        })
    );
}

/// A request carries its payload to a subscriber and the answer back.
pub async fn a_request_reaches_who_serves_it(bus: Arc<dyn Bus>) {
    let bench = Bench { bus };
    let mut served = bench.listen("serve.*").await;
    let subject = Subject::new("serve.it");
    let (answer, ()) = tokio::join!(bench.bus.request(&subject, bytes("question"), LONG), async {
        let incoming = served.next().await.expect("the question comes");
        assert_eq!(
            (incoming.subject.as_str(), text(&incoming.payload)),
            ("serve.it", "question".to_owned())
        );
        let reply = incoming.reply.expect("a question can be answered");
        reply.send(bytes("answer")).await.expect("the asker waits");
    });
    assert_eq!(answer.map(|payload| text(&payload)), Ok("answer".to_owned()));
    bench.send("serve.it", "statement").await;
    let incoming = served.next().await.expect("the statement comes");
    assert!(incoming.reply.is_none(), "a plain message asks for no answer");
}

/// When several subscribers answer, the first one is taken and the others do no harm.
pub async fn the_first_answer_counts(bus: Arc<dyn Bus>) {
    let bench = Bench { bus };
    let (mut first, mut second) = (bench.listen("many.x").await, bench.listen("many.*").await);
    let subject = Subject::new("many.x");
    let (answer, late) = tokio::join!(bench.bus.request(&subject, bytes("?"), LONG), async {
        let late = second
            .next()
            .await
            .expect("everybody is asked")
            .reply
            .expect("and may answer");
        let early = first
            .next()
            .await
            .expect("everybody is asked")
            .reply
            .expect("and may answer");
        early.send(bytes("first")).await.expect("the asker waits");
        late
    });
    assert_eq!(answer.map(|payload| text(&payload)), Ok("first".to_owned()));
    assert_eq!(
        late.send(bytes("second")).await,
        Ok(()),
        "an asker who left is no error"
    );
}

/// Without subscribers a request fails at once, not after its timeout.
pub async fn a_request_nobody_serves_fails_at_once(bus: Arc<dyn Bus>) {
    let subject = Subject::new("unserved.x");
    let asked = tokio::time::timeout(SHORT, bus.request(&subject, bytes("?"), LONG)).await;
    assert_eq!(
        asked,
        Ok(Err(BusError::NoResponders {
            subject: subject.to_string()
        }))
    );
}

/// A subscriber that drops the right to answer leaves the asker waiting until its timeout.
pub async fn a_dropped_reply_is_a_timeout(bus: Arc<dyn Bus>) {
    let bench = Bench { bus };
    let mut served = bench.listen("silent.x").await;
    let subject = Subject::new("silent.x");
    let began = tokio::time::Instant::now();
    let (answer, ()) = tokio::join!(bench.bus.request(&subject, bytes("?"), SHORT), async {
        drop(served.next().await.expect("the question comes"));
    });
    assert!(matches!(answer, Err(BusError::Timeout { .. })), "{answer:?}");
    assert!(began.elapsed() >= SHORT);
}

/// A subscriber that does not read loses messages and knows how many; one beside it that reads loses none.
pub async fn a_slow_subscriber_loses_alone_and_counts(bus: Arc<dyn Bus>) {
    // More than any subscriber's queue in these tests.
    const MESSAGES: u64 = 20_000;
    let bench = Bench { bus };
    let (mut slow, mut quick) = (bench.listen("speed.x").await, bench.listen("speed.x").await);
    for number in 0..MESSAGES {
        bench.send("speed.x", &number.to_string()).await;
        let read = quick.next().await.expect("the bus is open");
        assert_eq!(text(&read.payload), number.to_string());
    }
    assert_eq!(quick.lost(), 0);
    let mut received = 0;
    while next_text(&mut *slow).await.is_some() {
        received += 1;
    }
    assert!(slow.lost() > 0, "its queue has a limit");
    assert_eq!(received + slow.lost(), MESSAGES);
}
