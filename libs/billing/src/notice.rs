//! What Stripe says of customers, as far as it decides whether their tenants may go on.

use serde_json::Value;
use vlinders_ledger::Notice;

/// A notice that is not in the form it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event has no id, time, type or object")]
pub struct UnreadableNotice;

/// Reads an event. None: it decides nothing.
///
/// # Errors
/// When it is none.
pub fn read_notice(body: &[u8]) -> Result<Option<Notice>, UnreadableNotice> {
    let event: Value = serde_json::from_slice(body).map_err(|_| UnreadableNotice)?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(UnreadableNotice);
    let (id, kind) = (text(&event["id"])?, text(&event["type"])?);
    let written_s = event["created"].as_u64().ok_or(UnreadableNotice)?;
    let object = event["data"]["object"].as_object().ok_or(UnreadableNotice)?;
    let field = |name: &str| object.get(name).and_then(Value::as_str).map(str::to_owned);
    let (customer, pays) = match kind.as_str() {
        "customer.deleted" => (field("id"), false),
        "customer.subscription.deleted" => (field("customer"), false),
        "customer.subscription.created"
        | "customer.subscription.updated"
        | "customer.subscription.resumed"
        | "customer.subscription.paused" => match field("status").as_deref() {
            Some("active" | "trialing") => (field("customer"), true),
            Some("canceled" | "unpaid" | "paused" | "incomplete_expired") => (field("customer"), false),
            // Stripe still tries to collect the money.
            Some(_) | None => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(Notice {
        id,
        written_s,
        customer: customer.ok_or(UnreadableNotice)?,
        pays,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(kind: &str, object: &Value) -> Option<(String, bool)> {
        let event = json!({"id": "evt_1", "type": kind, "created": 7, "data": {"object": object}});
        let notice = read_notice(event.to_string().as_bytes()).unwrap()?;
        assert_eq!((notice.id.as_str(), notice.written_s), ("evt_1", 7));
        Some((notice.customer, notice.pays))
    }

    #[test]
    fn who_is_gone_or_cancelled_does_not_pay_and_who_is_active_does() {
        let gone = read("customer.deleted", &json!({"id": "cus_1"}));
        assert_eq!(gone, Some(("cus_1".to_owned(), false)));
        let of = |kind: &str, status: &str| {
            let object = json!({"id": "sub_1", "customer": "cus_1", "status": status});
            read(&format!("customer.subscription.{kind}"), &object).map(|(_, pays)| pays)
        };
        assert_eq!(of("deleted", "canceled"), Some(false));
        for (status, pays) in [
            ("active", Some(true)),
            ("trialing", Some(true)),
            ("canceled", Some(false)),
            ("unpaid", Some(false)),
            ("past_due", None),
            ("incomplete", None),
        ] {
            assert_eq!(of("updated", status), pays, "{status}");
        }
        assert_eq!(read("invoice.paid", &json!({"customer": "cus_1"})), None);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for body in [
            "",
            "[]",
            "{}",
            "{\"id\":\"e\",\"type\":\"customer.deleted\",\"created\":1}",
        ] {
            assert_eq!(read_notice(body.as_bytes()), Err(UnreadableNotice), "{body}");
        }
        let nameless = json!({"id": "e", "type": "customer.deleted", "created": 1, "data": {"object": {}}});
        assert_eq!(
            read_notice(nameless.to_string().as_bytes()),
            Err(UnreadableNotice)
        );
    }
}
