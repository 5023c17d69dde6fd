//! What subscribers outside the service hear.

use serde_json::{Value, json};
use vlinders_bus::{Bus, Subject, Subscription};
use vlinders_frontend::{FrontendConfig, TapForm};
use vlinders_types::FinishReason;

use crate::support::{QUIET, Setting, World, chunk, last, within};

async fn tapped() -> (World, Box<dyn Subscription>) {
    let config = FrontendConfig {
        beacon_fresh: QUIET,
        tap: Some(TapForm::Json),
        ..Default::default()
    };
    let setting = Setting {
        config,
        ..Setting::default()
    };
    let world = World::with(setting).await;
    let events = world.bus.subscribe(&Subject::new("vl.ev.>")).await;
    (world, events.expect("the bus is open"))
}

async fn next(events: &mut Box<dyn Subscription>) -> Value {
    let event = within(events.next()).await.expect("the bus is open");
    assert_eq!(event.subject.as_str(), "vl.ev.default.tiny");
    serde_json::from_slice(&event.payload).expect("JSON")
}

#[tokio::test]
async fn what_a_client_is_told_its_tenant_hears_too() {
    let (world, mut events) = tapped().await;
    let worker = async {
        let request = world.take().await;
        world.send(&request, vec![chunk(0, 1, "Hel")]).await;
        // Somebody sends the same again: it counts once.
        world.send(&request, vec![chunk(0, 1, "Hel")]).await;
        world
            .send(&request, vec![last(1, 1, "lo", FinishReason::Stop)])
            .await;
        request
    };
    let asked = json!({"stream": true});
    let (answer, request) = within(async { tokio::join!(world.chat(&asked).send(), worker) }).await;
    assert!(within(answer.unwrap().text()).await.unwrap().contains("[DONE]"));
    let first = next(&mut events).await;
    assert_eq!(first["request_id"], request.request_id.to_string());
    assert_eq!(
        (&first["position"], &first["text"], &first["finish"]),
        (&json!(0), &json!("Hel"), &Value::Null)
    );
    let end = next(&mut events).await;
    assert_eq!(
        (&end["position"], &end["text"], &end["finish"]),
        (&json!(1), &json!("lo"), &json!("stop"))
    );
    assert_eq!(end["counts"]["completion"], 2);
}
