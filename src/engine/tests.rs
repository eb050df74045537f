//! The engine where a part of it breaks.
//!
//! Never breaks a part by changing it: chance and receivers are the test's own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Downfall, Engine, InboxLimits, Limits, World};
use crate::clock::SystemClock;
use crate::entropy::{Entropy, SystemEntropy};
use crate::feed;
use crate::metrics::Metrics;
use crate::model::{Attempt, ErrorCode, EventType, EventTypes, MerchantId, Outcome, Phases, Timestamp};
use crate::outbox::Submission;
use crate::policy::retry::Schedule;
use crate::portal;
use crate::registry::{Config, Precondition, SecretChange};
use crate::shard::Limits as ShardLimits;
use crate::store::embedded::Limits as StoreLimits;
use crate::transport::{Parcel, Sending, Transport};

const PATIENCE: Duration = Duration::from_secs(60);

/// Receivers of which none is there.
struct Nobody;

impl Transport for Nobody {
    fn send(&self, parcel: Parcel) -> Sending<'_> {
        let attempt = Attempt {
            number: parcel.number,
            started_at: Timestamp::ZERO,
            duration_ms: 1,
            phases: Phases::default(),
            outcome: Outcome::failed(ErrorCode::ConnectRefused),
            sent: None,
            response: None,
        };
        Box::pin(async move { attempt })
    }
}

/// Dice that fall off the table when a retry is to be planned: only dispatchers ask for a fraction.
struct Broken;

impl Entropy for Broken {
    fn fill(&self, bytes: &mut [u8]) {
        SystemEntropy.fill(bytes);
    }

    fn unit(&self) -> f64 {
        panic!("planted")
    }
}

fn limits() -> Limits {
    Limits {
        shards: 2,
        store: StoreLimits { free_bytes_min: 0, reserve_bytes: 0, ..StoreLimits::default() },
        shard: ShardLimits::default(),
        inbox: InboxLimits::default(),
        reads_max: 4,
        schedule: Schedule::default(),
        portal: portal::Limits::default(),
        feed: feed::Limits::default(),
    }
}

/// An engine in `dir`, and why it had to end, where it had to.
fn start(dir: &Path, entropy: Arc<dyn Entropy>) -> (Engine, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let world = World {
        clock: Arc::new(SystemClock),
        entropy,
        transport: Arc::new(Nobody),
        metrics: Metrics::new(),
        fatal: Arc::new(move |downfall: &Downfall<'_>| drop(tell.send(downfall.to_string()))),
        operator_digests: Vec::new(),
    };
    (Engine::start(dir, &limits(), world).expect("the engine starts"), told)
}

/// Has one event accepted that is owed to a receiver.
async fn owe(engine: &Engine) {
    let merchant: MerchantId = "acme".parse().expect("an id");
    engine.registry.put_merchant(&merchant, None).await.expect("the store takes it");
    let config = Config {
        url: "http://127.0.0.1:1/".into(),
        event_types: EventTypes::EVERY,
        enabled: true,
        secret: SecretChange::Keep,
        secret_grace_ms: 0,
    };
    engine.registry.put_config(&merchant, config, &Precondition::None).await.expect("the store takes it");
    let event = Submission {
        merchant,
        event_type: EventType::CardState,
        resource_id: None,
        traceparent: None,
        occurred_at: None,
        payload: Bytes::from_static(b"{}"),
        idempotency: None,
        endpoints: Vec::new(),
    };
    let receipt = engine.outbox.submit(event);
    engine.outbox.committed(receipt).await.expect("the store takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_panics_ends_the_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (engine, mut told) = start(dir.path(), Arc::new(Broken));
    owe(&engine).await;
    let why = tokio::time::timeout(PATIENCE, told.recv()).await.expect("it is told");
    assert_eq!(why.as_deref(), Some("a dispatcher panicked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dispatchers_that_drain_end_without_a_word() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (engine, mut told) = start(dir.path(), Arc::new(SystemEntropy));
    owe(&engine).await;
    engine.drain(PATIENCE).await;
    drop(engine);
    assert_eq!(told.recv().await, None, "whoever could tell is gone and told nothing");
}
