//! The real binary with merchants whose endpoints are the receiver, and producers that load it.
//!
//! Never counts an event before it has arrived.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::receiver::Receiver;
use crate::wire::{Wire, payload};

const BATCH: u64 = 100;
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

pub(crate) struct Product {
    process: Child,
    ready: Value,
    merchants: u64,
    next: Arc<AtomicU64>,
    _data: TempDir,
}

/// How producers hand events in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Single,
    Batch,
}

/// What a load came to.
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    /// From each request to its 202.
    pub(crate) accepted: Vec<Duration>,
    /// From each request to the arrival of its event.
    pub(crate) arrived: Vec<Duration>,
}

/// When each event was handed in, and how long its 202 took.
type Sent = Vec<(u64, Instant, Duration)>;

impl Product {
    /// With its data on the disk of the build, and so many merchants.
    pub(crate) async fn start(receiver: &Receiver, merchants: u64) -> Product {
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's own directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
        command.args(["serve", "--dev", "--json", "--data-dir"]).arg(data.path().join("data"));
        command.env("POSTHASTE__LOG__LEVEL", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the binary is built");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("UTF-8");
        let ready = serde_json::from_str(&line).expect("it started");
        let product = Product { process, ready, merchants, next: Arc::default(), _data: data };
        for merchant in 0..merchants {
            product.merchant(&format!("m{merchant}"), receiver.address).await;
        }
        product
    }

    fn says(&self, field: &str) -> &str {
        self.ready[field].as_str().expect("a string")
    }

    async fn wire(&self, listener: &str) -> Wire {
        let address = self.says(listener).trim_start_matches("http://").parse().expect("an address");
        Wire::open(address).await
    }

    async fn merchant(&self, id: &str, receiver: SocketAddr) {
        let (mut admin, mut public) = (self.wire("admin").await, self.wire("public").await);
        let operator = self.says("operator_key");
        admin.send("PUT", &format!("/admin/v1/merchants/{id}"), JSON, operator, Bytes::from("{}")).await;
        let path = format!("/admin/v1/merchants/{id}/keys");
        let (_, made) = admin.send("POST", &path, JSON, operator, Bytes::from("{}")).await;
        let made: Value = serde_json::from_slice(&made).expect("JSON");
        let config = json!({ "url": format!("http://{receiver}/"), "secret": "a signing secret" }).to_string();
        let key = made["key"].as_str().expect("shown once");
        let (status, _) = public.send("PUT", "/api/v2/webhooks/config", JSON, key, Bytes::from(config)).await;
        assert_eq!(status, StatusCode::CREATED);
    }

    /// Producers that each hand in one request after the other for `time`; ends when everything has arrived.
    pub(crate) async fn load(&self, receiver: &Receiver, shape: Shape, producers: usize, time: Duration) -> Outcome {
        receiver.take();
        let begun = Instant::now();
        let mut producing = JoinSet::new();
        for _ in 0..producers {
            let (wire, key, next) =
                (self.wire("ingest").await, self.says("producer_key").to_owned(), Arc::clone(&self.next));
            let producer = Producer { wire, key, next, merchants: self.merchants };
            producing.spawn(producer.run(shape, begun + time));
        }
        let sent: Sent = producing.join_all().await.into_iter().flatten().collect();
        conclude(receiver, begun, sent).await
    }

    /// Single events at a steady pace.
    pub(crate) async fn paced(&self, receiver: &Receiver, per_second: u32, time: Duration) -> Outcome {
        receiver.take();
        let begun = Instant::now();
        let (wire, key, next) =
            (self.wire("ingest").await, self.says("producer_key").to_owned(), Arc::clone(&self.next));
        let mut producer = Producer { wire, key, next, merchants: self.merchants };
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        let mut sent = Vec::new();
        while begun.elapsed() < time {
            ticks.tick().await;
            producer.hand_in(Shape::Single, &mut sent).await;
        }
        conclude(receiver, begun, sent).await
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Producer {
    wire: Wire,
    key: String,
    next: Arc<AtomicU64>,
    merchants: u64,
}

impl Producer {
    async fn run(mut self, shape: Shape, until: Instant) -> Sent {
        let mut sent = Vec::new();
        while Instant::now() < until {
            self.hand_in(shape, &mut sent).await;
        }
        sent
    }

    async fn hand_in(&mut self, shape: Shape, sent: &mut Sent) {
        let (count, path, kind, expected) = match shape {
            Shape::Single => (1, "/v1/events", JSON, StatusCode::ACCEPTED),
            Shape::Batch => (BATCH, "/v1/events/batch", NDJSON, StatusCode::OK),
        };
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let lines: Vec<String> = (first..first + count).map(|number| self.event(number)).collect();
        let begun = Instant::now();
        let (status, answer) = self.wire.post(path, kind, &self.key, Bytes::from(lines.join("\n"))).await;
        let took = begun.elapsed();
        assert_eq!(status, expected);
        if shape == Shape::Batch {
            let accepted =
                answer.split(|byte| *byte == b'\n').filter(|line| line.starts_with(br#"{"status":202"#)).count();
            assert_eq!(accepted as u64, count, "{}", String::from_utf8_lossy(&answer));
        }
        sent.extend((first..first + count).map(|number| (number, begun, took)));
    }

    fn event(&self, number: u64) -> String {
        let merchant = number % self.merchants;
        format!(r#"{{"type":"card_transaction","merchant_id":"m{merchant}","data":{}}}"#, payload(number))
    }
}

/// Waits until everything that was handed in has arrived.
async fn conclude(receiver: &Receiver, begun: Instant, sent: Sent) -> Outcome {
    while receiver.count() < sent.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let arrivals: HashMap<u64, Instant> = receiver.take().into_iter().collect();
    let last = arrivals.values().max().copied().unwrap_or(begun);
    let arrived = sent.iter().map(|(number, at, _)| arrivals[number].saturating_duration_since(*at)).collect();
    let per_second = sent.len() as f64 / (last - begun).as_secs_f64();
    Outcome { per_second, accepted: sent.iter().map(|(.., took)| *took).collect(), arrived }
}
