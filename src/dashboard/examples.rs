//! One example of each event type, for test events.
//!
//! Never looks like a real resource: every id begins with `test_`.

use crate::model::{EventType, Timestamp};

/// An example's resource id and payload. `number` makes it another one each time.
pub(super) fn example(event_type: EventType, number: u32, now: Timestamp) -> (String, String) {
    let n = format!("{number:08x}");
    let id = match event_type {
        EventType::CardTransaction => format!("test_ctx_{n}"),
        EventType::AccountTransaction => format!("test_atx_{n}"),
        EventType::AccountTopup => format!("test_top_{n}"),
        EventType::CardState => format!("test_card_{n}"),
    };
    let payload = match event_type {
        EventType::CardTransaction => format!(
            r#"{{"id":"{id}","card_id":"test_card_{n}","account_id":"test_acc_{n}","type":"purchase","status":"confirmed","amount":"24.90","currency":"EUR","merchant":{{"name":"Café Zoë","category_code":"5814","city":"Lisbon","country":"PT"}},"created_at":"{now}"}}"#
        ),
        EventType::AccountTransaction => format!(
            r#"{{"id":"{id}","account_id":"test_acc_{n}","type":"transfer","direction":"debit","status":"cleared","amount":"310.00","currency":"EUR","counterparty":{{"name":"Northwind Ltd","iban":"DE02120300000000202051"}},"reference":"Invoice 2041","created_at":"{now}"}}"#
        ),
        EventType::AccountTopup => format!(
            r#"{{"id":"{id}","account_id":"test_acc_{n}","status":"received","amount":"1500.00","currency":"EUR","method":"bank_transfer","reference":"Top-up {n}","created_at":"{now}"}}"#
        ),
        EventType::CardState => format!(
            r#"{{"id":"{id}","account_id":"test_acc_{n}","status":"active","previous_status":"pending_activation","type":"virtual","last_four":"4242","expiry":"2029-08","updated_at":"{now}"}}"#
        ),
    };
    (id, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_an_example_that_is_json_and_names_itself() {
        for event_type in EventType::ALL {
            let (id, payload) = example(event_type, 7, Timestamp::ZERO);
            let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
            assert_eq!(value["id"], id, "{event_type}");
            assert!(id.starts_with("test_"));
        }
    }
}
