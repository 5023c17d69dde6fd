//! Events that can never be recorded.

use std::hash::{DefaultHasher, Hash, Hasher};

use vlinders_bus::{Bus, BusError, Delivery, StreamName, Subject};
use vlinders_types::{ModelName, WorkerId};
use vlinders_wire::{DeadLetter, encode_dead_letter, subjects};

/// Dead letters are sorted by model; what an unreadable event was about is not known.
const MODEL: &str = "usage";

pub(crate) fn letter(delivery: &Delivery, reason: &str, writer: &WorkerId, now_ms: u64) -> DeadLetter {
    DeadLetter {
        reason: reason.to_owned(),
        writer: writer.clone(),
        delivery_count: delivery.delivery_count,
        failed_ms: now_ms,
        subject: delivery.subject.as_str().to_owned(),
        payload: delivery.payload.clone(),
    }
}

/// Stores the letter, then ends the delivery. Done twice, it is stored once.
pub(crate) async fn bury(bus: &dyn Bus, delivery: &Delivery, letter: &DeadLetter) -> Result<(), BusError> {
    let subject = Subject::new(subjects::dead_letter_subject(&ModelName::new(MODEL)));
    let mut hasher = DefaultHasher::new();
    (letter.subject.as_str(), &letter.payload).hash(&mut hasher);
    let id = format!("usage.{:016x}", hasher.finish());
    let payload = encode_dead_letter(letter);
    bus.enqueue(StreamName::DeadLetters, &subject, &id, payload)
        .await?;
    delivery.control.terminate().await
}
