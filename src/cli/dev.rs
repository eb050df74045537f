//! `serve --dev`: everything that is needed to see an event arrive, made and printed.
//!
//! Never opens anything beyond loopback, and never changes a config that somebody has changed.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::build::Sources;
use super::receiver::Receiver;
use super::serve::Unserved;
use crate::engine::Engine;
use crate::model::{EventTypes, MerchantId, Role, Secret};
use crate::registry::{Config, Precondition, SecretChange};

const MERCHANT: &str = "dev";

/// In the data directory: what was made, so that the next run prints the same.
const KEPT_FILE: &str = "dev.json";

/// What `--dev` puts under the configuration file and the environment. `scratch` is the data directory where
/// none is asked for.
pub(super) fn presets(scratch: Option<&Path>) -> Vec<(&'static str, &'static str, String)> {
    let mut presets = vec![
        ("public.address", "127.0.0.1:0"),
        ("ingest.address", "127.0.0.1:0"),
        ("admin.address", "127.0.0.1:0"),
        ("egress.allow_http", "true"),
        ("egress.allow", "127.0.0.0/8,::1/128"),
        ("egress.ports", ""),
        ("storage.free_bytes_min", "64MiB"),
    ];
    let scratch = scratch.map(|dir| dir.display().to_string());
    presets.extend(scratch.as_deref().map(|dir| ("storage.data_dir", dir)));
    presets.into_iter().map(|(key, value)| ("--dev", key, value.to_owned())).collect()
}

/// What is kept from run to run. On loopback, in a file for the owner's eyes.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    merchant_key: String,
    producer_key: String,
    operator_key: String,
    receiver: Option<SocketAddr>,
}

/// What `--dev` made.
pub(super) struct Dev {
    engine: Arc<Engine>,
    merchant: MerchantId,
    kept: Kept,
    secret: Option<String>,
    receiver: Receiver,
    json: bool,
}

/// The line of `--json`.
#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    public: String,
    ingest: String,
    admin: String,
    merchant_id: &'a str,
    merchant_key: &'a str,
    producer_key: &'a str,
    operator_key: &'a str,
    portal_url: String,
    receiver_url: String,
    secret: Option<&'a str>,
    data_dir: String,
    pid: u32,
}

impl Dev {
    /// Makes what is not there yet: merchant, keys, receiver, config.
    pub(super) async fn prepare(
        engine: &Arc<Engine>,
        sources: &Sources,
        data_dir: &Path,
        json: bool,
    ) -> Result<Dev, Unserved> {
        let merchant: MerchantId = MERCHANT.parse().expect("a plain word");
        let path = data_dir.join(KEPT_FILE);
        let mut kept: Kept =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let registry = &engine.registry;
        if registry.merchant(&merchant).is_none() {
            registry.put_merchant(&merchant, None).await.map_err(|refusal| refusal.to_string())?;
        }
        for (key, role) in [
            (&mut kept.merchant_key, Role::Merchant(merchant.clone())),
            (&mut kept.producer_key, Role::Producer),
            (&mut kept.operator_key, Role::Operator),
        ] {
            if registry.authenticate(key).as_ref() != Some(&role) {
                *key = registry.create_key(role).await.map_err(|rejected| rejected.to_string())?.1;
            }
        }
        let before = kept.receiver.map(url_at);
        let receiver = Receiver::bind(kept.receiver).await.map_err(|error| format!("the receiver: {error}"))?;
        kept.receiver = Some(receiver.address());
        configure(engine, sources, &merchant, before, &receiver).await?;
        write(&path, &kept).map_err(|error| Unserved::disk(format!("{}: {error}", path.display())))?;
        let endpoint = registry.endpoint_of(&merchant);
        let secret = endpoint.and_then(|endpoint| endpoint.secret.as_ref().map(|secret| secret.expose().to_owned()));
        Ok(Dev { engine: Arc::clone(engine), merchant, kept, secret, receiver, json })
    }

    /// Plays the merchant until `shutdown` ends.
    pub(super) async fn receive(self, shutdown: impl Future<Output = ()>) {
        self.receiver.run(self.engine, self.merchant, self.json, shutdown).await;
    }

    /// What is printed once the process serves: one line for scripts, or a page for people.
    pub(super) fn introduction(&self, urls: [String; 3], data_dir: &Path) -> String {
        let [public, ingest, admin] = urls;
        let portal_url = format!("{public}{}", self.engine.portal.mint(&self.merchant).path());
        let ready = Ready {
            ready: true,
            public,
            ingest,
            admin,
            merchant_id: self.merchant.as_str(),
            merchant_key: &self.kept.merchant_key,
            producer_key: &self.kept.producer_key,
            operator_key: &self.kept.operator_key,
            portal_url,
            receiver_url: self.receiver.url(),
            secret: self.secret.as_deref(),
            data_dir: data_dir.display().to_string(),
            pid: std::process::id(),
        };
        if self.json { serde_json::to_string(&ready).expect("strings are always JSON") } else { ready.for_people() }
    }
}

impl Ready<'_> {
    fn for_people(&self) -> String {
        let Ready { public, ingest, admin, portal_url, receiver_url, data_dir, .. } = self;
        let Ready { merchant_id, merchant_key, producer_key, operator_key, .. } = self;
        let secret = self.secret.unwrap_or("none");
        format!(
            "\
Posthaste is ready, on loopback, with everything in {data_dir}

  merchants   {public}   key {merchant_key}
  producers   {ingest}   key {producer_key}
  operators   {admin}   key {operator_key}
  receiver    {receiver_url}   secret {secret}
  dashboard   {portal_url}
              (the link works once and for a few minutes; after that sign in with the merchant's key)

Hand in an event; the receiver shows it here:

  curl -sS {ingest}/v1/events -H 'Authorization: Bearer {producer_key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{\"type\":\"card_transaction\",\"merchant_id\":\"{merchant_id}\",\"data\":{{\"id\":\"txn_1\",\"amount\":\"12.50\"}}}}'

See what became of it, as the merchant does:

  curl -sS {public}/api/v2/webhooks/events -H 'Authorization: Bearer {merchant_key}'
"
        )
    }
}

/// Points the merchant's config to the receiver, unless somebody pointed it elsewhere or removed it.
async fn configure(
    engine: &Engine,
    sources: &Sources,
    merchant: &MerchantId,
    before: Option<String>,
    receiver: &Receiver,
) -> Result<(), String> {
    let known = engine.registry.endpoint_of(merchant);
    let url = receiver.url();
    let (event_types, enabled, secret) = match &known {
        None if before.is_none() => {
            let secret = Secret::new(&new_secret(sources)).expect("a secret of ours is neither empty nor long");
            (EventTypes::EVERY, true, SecretChange::Replace(secret))
        }
        Some(endpoint) if before.as_deref() == Some(&*endpoint.url) && *endpoint.url != *url => {
            (endpoint.event_types, endpoint.state == crate::model::EndpointState::Active, SecretChange::Keep)
        }
        _ => return Ok(()),
    };
    let config = Config { url: url.into(), event_types, enabled, secret, secret_grace_ms: 0 };
    engine
        .registry
        .put_config(merchant, config, &Precondition::None)
        .await
        .map(drop)
        .map_err(|rejected| rejected.to_string())
}

/// In the form of Standard Webhooks, so that every library of theirs takes it.
fn new_secret(sources: &Sources) -> String {
    use base64::Engine as _;
    let mut bytes = [0; 24];
    sources.entropy.fill(&mut bytes);
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn url_at(address: SocketAddr) -> String {
    format!("http://{address}{}", super::receiver::PATH)
}

fn write(path: &Path, kept: &Kept) -> std::io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(kept).expect("strings are always JSON"))
}
