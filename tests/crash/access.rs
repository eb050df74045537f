//! The HTTP surface as producers, merchants and operators use it; the only file that knows its paths.
//!
//! Never repeats a request by itself: what an answer that did not come means is the caller's to decide.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::Request;

use crate::appliance::{Addresses, OPERATOR_KEY};

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    /// The body of an answer with this status.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

/// One line of a merchant's history.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) sequence: u64,
    pub(crate) status: String,
    pub(crate) resource: String,
    pub(crate) attempts: u64,
    /// A record of it cannot be read, and it says so.
    pub(crate) damaged: bool,
}

/// A client with connections of its own that it keeps.
#[derive(Clone)]
pub(crate) struct Access {
    agent: ureq::Agent,
}

impl Access {
    pub(crate) fn new() -> Access {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Access { agent: config.into() }
    }

    fn call(&self, method: &str, url: &str, key: &str, kind: &str, body: String) -> Result<Answer, String> {
        let request = Request::builder().method(method).uri(url).header("authorization", format!("Bearer {key}"));
        let answer = if body.is_empty() && !method.starts_with('P') {
            self.agent.run(request.body(()).expect("a request"))
        } else {
            self.agent.run(request.header("content-type", kind).body(body).expect("a request"))
        };
        let mut answer = answer.map_err(|error| error.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        Ok(Answer { status: answer.status().as_u16(), text })
    }

    fn json_call(&self, method: &str, url: &str, key: &str, body: &Value) -> Result<Answer, String> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.call(method, url, key, "application/json", text)
    }

    /// Hands in one event; `event` is the whole request.
    pub(crate) fn submit(&self, at: &Addresses, key: &str, event: String) -> Result<Answer, String> {
        self.call("POST", &format!("{}/v1/events", at.ingest), key, "application/json", event)
    }

    /// Hands in many.
    pub(crate) fn submit_batch(&self, at: &Addresses, key: &str, lines: String) -> Result<Answer, String> {
        self.call("POST", &format!("{}/v1/events/batch", at.ingest), key, "application/x-ndjson", lines)
    }

    pub(crate) fn put_owner(&self, at: &Addresses, key: &str, card: &str, merchant: &str) -> Result<Answer, String> {
        let url = format!("{}/v1/owners/card/{card}", at.ingest);
        self.json_call("PUT", &url, key, &json!({ "merchant_id": merchant }))
    }

    pub(crate) fn owner(&self, at: &Addresses, key: &str, card: &str) -> Result<Answer, String> {
        self.json_call("GET", &format!("{}/v1/owners/card/{card}", at.ingest), key, &Value::Null)
    }

    /// Makes a merchant; its key.
    pub(crate) fn make_merchant(&self, at: &Addresses, merchant: &str) -> Result<String, String> {
        let url = format!("{}/admin/v1/merchants/{merchant}", at.admin);
        self.json_call("PUT", &url, OPERATOR_KEY, &json!({}))?;
        let made = self.json_call("POST", &format!("{url}/keys"), OPERATOR_KEY, &Value::Null)?;
        Ok(made.expect(201)["key"].as_str().expect("a key").to_owned())
    }

    /// Makes a producer's key.
    pub(crate) fn make_producer(&self, at: &Addresses) -> Result<String, String> {
        let body = json!({ "role": "producer" });
        let made = self.json_call("POST", &format!("{}/admin/v1/keys", at.admin), OPERATOR_KEY, &body)?;
        Ok(made.expect(201)["key"].as_str().expect("a key").to_owned())
    }

    pub(crate) fn put_config(&self, at: &Addresses, key: &str, url: &str, enabled: bool) -> Result<Answer, String> {
        let body = json!({ "url": url, "enabled": enabled });
        self.json_call("PUT", &format!("{}/api/v2/webhooks/config", at.public), key, &body)
    }

    pub(crate) fn delete_config(&self, at: &Addresses, key: &str) -> Result<Answer, String> {
        self.json_call("DELETE", &format!("{}/api/v2/webhooks/config", at.public), key, &Value::Null)
    }

    pub(crate) fn config(&self, at: &Addresses, key: &str) -> Result<Answer, String> {
        self.json_call("GET", &format!("{}/api/v2/webhooks/config", at.public), key, &Value::Null)
    }

    /// Deliveries that are owed, as the appliance counts them.
    pub(crate) fn waiting(&self, at: &Addresses) -> Result<u64, String> {
        let stats = self.json_call("GET", &format!("{}/admin/v1/stats", at.admin), OPERATOR_KEY, &Value::Null)?;
        Ok(stats.expect(200)["deliveries_waiting"].as_u64().expect("a count"))
    }

    /// A merchant's whole history, oldest first, page by page.
    pub(crate) fn history(&self, at: &Addresses, key: &str) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let url = format!("{}/api/v2/webhooks/events?limit=250&order=asc{cursor}", at.public);
            let page = self.json_call("GET", &url, key, &Value::Null)?;
            if page.status != 200 {
                return Err(format!("the history is answered {}: {}", page.status, page.text));
            }
            let page = page.json();
            let data = page["data"].as_array().expect("a list");
            items.extend(data.iter().map(item));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// The ids of the events that the history finds by a resource.
    pub(crate) fn of_resource(&self, at: &Addresses, key: &str, resource: &str) -> Result<Vec<String>, String> {
        let url = format!("{}/api/v2/webhooks/events?resource_id={resource}", at.public);
        let page = self.json_call("GET", &url, key, &Value::Null)?;
        if page.status != 200 {
            return Err(format!("the history of {resource} is answered {}: {}", page.status, page.text));
        }
        let page = page.json();
        let items = page["data"].as_array().expect("a list").iter().map(item);
        Ok(items.filter(|item| !item.damaged).map(|item| item.id).collect())
    }

    /// The payload of one event, byte for byte as the answer has it.
    pub(crate) fn payload(&self, at: &Addresses, key: &str, id: &str) -> Result<String, String> {
        let url = format!("{}/api/v2/webhooks/events/{id}", at.public);
        let detail = self.json_call("GET", &url, key, &Value::Null)?;
        if detail.status != 200 {
            return Err(format!("event {id} is answered {}: {}", detail.status, detail.text));
        }
        #[derive(serde::Deserialize)]
        struct Detail {
            payload: Box<serde_json::value::RawValue>,
        }
        let detail: Detail = serde_json::from_str(&detail.text).map_err(|error| error.to_string())?;
        Ok(detail.payload.get().to_owned())
    }
}

fn item(value: &Value) -> Item {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let damaged = value["damaged"] == true;
    Item {
        id: text("id"),
        sequence: value["sequence"].as_u64().or_else(|| damaged.then_some(0)).expect("a sequence"),
        status: text("status"),
        resource: text("resource_id"),
        attempts: value["attempt_count"].as_u64().expect("a count"),
        damaged,
    }
}
