//! Who there is: merchants, their endpoints, keys and owners. Read from memory, changed through the store.
//!
//! Never shows a key after it was made; never changes memory before the store has the change durably.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::{
    Digest, DisabledReason, Endpoint, EndpointId, EndpointState, EventTypes, Key, KeyId, Leave, Merchant, MerchantId,
    OldSecret, Ordering, OwnerKind, Role, Secret, Standing, Timestamp,
};
use crate::store::{Catalog, Change, Refusal, Store, StoreError};

/// The whole config of a merchant, as it asks for it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The URL, already judged and printed by the URL parser.
    pub url: Arc<str>,
    /// What to hear of.
    pub event_types: EventTypes,
    /// Whether deliveries leave.
    pub enabled: bool,
    /// What to do with the signing secret.
    pub secret: SecretChange,
    /// How long a replaced secret goes on signing.
    pub secret_grace_ms: u64,
    /// Which deliveries must not overtake each other.
    pub ordering: Ordering,
    /// The most attempts a second.
    pub rate: Option<NonZeroU32>,
}

/// What to do with the signing secret.
#[derive(Clone, Debug)]
pub enum SecretChange {
    /// Leave it.
    Keep,
    /// Go unsigned from now on.
    Remove,
    /// Sign with this one.
    Replace(Secret),
}

/// What must hold of the present config for a change to be made (RFC 9110 §13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// There is one (`If-Match: *`).
    Exists,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// Its tag is one of these.
    Tags(Vec<String>),
}

/// Why a change was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The merchant does not exist.
    #[error("there is no such merchant")]
    NoMerchant,
    /// The precondition does not hold.
    #[error("the precondition does not hold")]
    Precondition,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] Refusal),
}

/// What a change of an endpoint did, for those who schedule its deliveries. Must not block: it is called
/// under a lock.
pub type EndpointSink = Arc<dyn Fn(EndpointChange) + Send + Sync>;

/// An endpoint appeared, changed or went.
#[derive(Clone, Debug)]
pub enum EndpointChange {
    /// It is as given now, and so much of it leaves.
    Put(Arc<Endpoint>, Leave),
    /// It is gone.
    Deleted(EndpointId, MerchantId),
}

/// Merchants, endpoints and keys.
pub struct Registry {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    sink: EndpointSink,
    /// Operator keys that stand in the configuration rather than in the store.
    operator_digests: Vec<Digest>,
    state: RwLock<State>,
    /// One change at a time, so that each sees what the one before it did.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    merchants: BTreeMap<MerchantId, Arc<Merchant>>,
    endpoints: HashMap<EndpointId, Arc<Endpoint>>,
    endpoint_of: HashMap<MerchantId, EndpointId>,
    keys: BTreeMap<KeyId, Arc<Key>>,
    keys_by_digest: HashMap<Digest, KeyId>,
    retries_paused_at: Option<Timestamp>,
}

impl Registry {
    /// A registry of what the store holds. `configured` are digests of operator keys given by configuration.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        sink: EndpointSink,
        configured: Vec<Digest>,
    ) -> Result<Registry, StoreError> {
        let state = RwLock::new(State::of(store.catalog()?));
        Ok(Registry {
            store,
            clock,
            entropy,
            sink,
            operator_digests: configured,
            state,
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// A merchant.
    pub fn merchant(&self, id: &MerchantId) -> Option<Arc<Merchant>> {
        self.state().merchants.get(id).cloned()
    }

    /// At most `limit` merchants after `after`, by id.
    pub fn merchants(&self, after: Option<&MerchantId>, limit: usize) -> Vec<Arc<Merchant>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state()
            .merchants
            .range::<MerchantId, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|(_, m)| Arc::clone(m))
            .collect()
    }

    /// How many merchants there are.
    pub fn merchant_count(&self) -> usize {
        self.state().merchants.len()
    }

    /// How many merchants the operator has paused.
    pub fn paused_count(&self) -> usize {
        self.state().merchants.values().filter(|merchant| merchant.paused_at.is_some()).count()
    }

    /// Since when the operator holds everybody's retries back.
    pub fn retries_paused_at(&self) -> Option<Timestamp> {
        self.state().retries_paused_at
    }

    /// An endpoint.
    pub fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        self.state().endpoints.get(&id).cloned()
    }

    /// A merchant's endpoint, where it has configured one.
    pub fn endpoint_of(&self, merchant: &MerchantId) -> Option<Arc<Endpoint>> {
        let state = self.state();
        state.endpoint_of.get(merchant).and_then(|id| state.endpoints.get(id)).cloned()
    }

    /// Whether an endpoint's deliveries leave, its merchant's standing with the operator considered.
    pub fn standing(&self, endpoint: &Endpoint) -> Standing {
        self.state().standing(endpoint)
    }

    /// What of an endpoint's deliveries leaves.
    pub fn leave(&self, endpoint: &Endpoint) -> Leave {
        self.state().leave(endpoint)
    }

    /// Every endpoint, in no order.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.state().endpoints.values().cloned().collect()
    }

    /// Whom a presented key speaks for. The look-up is by digest, so its timing tells nothing of a key.
    pub fn authenticate(&self, presented: &str) -> Option<Role> {
        let digest = digest(presented);
        if self.operator_digests.iter().any(|known| known.ct_eq(&digest).into()) {
            return Some(Role::Operator);
        }
        self.role_of(&digest)
    }

    /// Whom the key with this digest speaks for, where it is one that is kept here.
    pub fn role_of(&self, digest: &Digest) -> Option<Role> {
        let state = self.state();
        let key = state.keys.get(state.keys_by_digest.get(digest)?)?;
        Some(key.role.clone())
    }

    /// The keys for which `wanted` says yes, oldest number first.
    pub fn keys(&self, wanted: impl Fn(&Role) -> bool) -> Vec<Arc<Key>> {
        self.state().keys.values().filter(|key| wanted(&key.role)).cloned().collect()
    }

    /// Sets a merchant. True where it is new.
    pub async fn put_merchant(&self, id: &MerchantId, name: Option<Arc<str>>) -> Result<bool, Refusal> {
        let _changing = self.changing.lock().await;
        let known = self.merchant(id);
        let created_at = known.as_ref().map_or_else(|| self.clock.now(), |merchant| merchant.created_at);
        let paused_at = known.as_ref().and_then(|merchant| merchant.paused_at);
        let merchant = Merchant { id: id.clone(), name, created_at, paused_at };
        if known.as_deref() != Some(&merchant) {
            self.apply(vec![Change::PutMerchant(merchant)]).await?;
        }
        Ok(known.is_none())
    }

    /// Holds all deliveries of a merchant back, or lets them leave again, whatever the merchant's own config says. The
    /// merchant as it is now; `None` where there is none.
    pub async fn pause_merchant(&self, id: &MerchantId, paused: bool) -> Result<Option<Arc<Merchant>>, Refusal> {
        let _changing = self.changing.lock().await;
        let Some(known) = self.merchant(id) else { return Ok(None) };
        if known.paused_at.is_some() != paused {
            let paused_at = paused.then(|| self.clock.now());
            self.apply(vec![Change::PutMerchant(Merchant { paused_at, ..(*known).clone() })]).await?;
        }
        Ok(self.merchant(id))
    }

    /// Holds the retries of everybody back, or lets them leave again; first attempts leave all the same. Since when they
    /// are paused.
    pub async fn pause_retries(&self, paused: bool) -> Result<Option<Timestamp>, Refusal> {
        let _changing = self.changing.lock().await;
        let known = self.retries_paused_at();
        if known.is_some() == paused {
            return Ok(known);
        }
        let since = paused.then(|| self.clock.now());
        self.store.pause_retries(since).await?;
        // Told while nobody can read the new state yet, as every change is.
        let mut state = self.state.write().expect("no panic while held");
        state.retries_paused_at = since;
        for endpoint in state.endpoints.values() {
            (self.sink)(EndpointChange::Put(Arc::clone(endpoint), state.leave(endpoint)));
        }
        Ok(since)
    }

    /// Removes a merchant, its config and its keys. False where there was none. Its history stays.
    pub async fn delete_merchant(&self, id: &MerchantId) -> Result<bool, Refusal> {
        let _changing = self.changing.lock().await;
        if self.merchant(id).is_none() {
            return Ok(false);
        }
        let mut changes: Vec<Change> =
            self.endpoint_of(id).into_iter().map(|endpoint| Change::DeleteEndpoint(endpoint.id)).collect();
        let own = |role: &Role| *role == Role::Merchant(id.clone());
        changes.extend(self.keys(own).iter().map(|key| Change::DeleteKey(key.id)));
        changes.push(Change::DeleteMerchant(id.clone()));
        self.apply(changes).await?;
        Ok(true)
    }

    /// Sets a merchant's config. The endpoint as it is now, and whether it is new.
    pub async fn put_config(
        &self,
        merchant: &MerchantId,
        config: Config,
        precondition: &Precondition,
    ) -> Result<(Arc<Endpoint>, bool), Rejected> {
        let _changing = self.changing.lock().await;
        if self.merchant(merchant).is_none() {
            return Err(Rejected::NoMerchant);
        }
        let known = self.endpoint_of(merchant);
        check(precondition, known.as_deref())?;
        let endpoint = self.configured(merchant, known.as_deref(), config);
        if known.as_deref() != Some(&endpoint) {
            self.apply(vec![Change::PutEndpoint(endpoint.clone())]).await?;
        }
        Ok((Arc::new(endpoint), known.is_none()))
    }

    /// Removes a merchant's config. False where there was none.
    pub async fn delete_config(&self, merchant: &MerchantId, precondition: &Precondition) -> Result<bool, Rejected> {
        let _changing = self.changing.lock().await;
        let known = self.endpoint_of(merchant);
        check(precondition, known.as_deref())?;
        let Some(endpoint) = known else { return Ok(false) };
        self.apply(vec![Change::DeleteEndpoint(endpoint.id)]).await?;
        Ok(true)
    }

    /// Switches an endpoint off on the product's own account, unless the merchant changed it meanwhile. Then its state
    /// is told again: whoever asks holds its deliveries already, and would hold them for good.
    pub async fn disable(&self, seen: &Endpoint, reason: DisabledReason) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let Some(endpoint) = self.endpoint(seen.id) else { return Ok(()) };
        if !is_seen(&endpoint, seen) {
            let leave = self.leave(&endpoint);
            (self.sink)(EndpointChange::Put(endpoint, leave));
            return Ok(());
        }
        let state = EndpointState::Disabled(reason);
        let disabled = Endpoint { state, updated_at: self.clock.now(), ..(*endpoint).clone() };
        self.apply(vec![Change::PutEndpoint(disabled)]).await
    }

    /// Notes since when nothing but failures came from an endpoint, or that it is well again, unless the
    /// merchant changed it meanwhile. That is no change of the config.
    pub async fn mark_failing(&self, seen: &Endpoint, since: Option<Timestamp>) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        let Some(endpoint) = self.endpoint(seen.id) else { return Ok(()) };
        if !is_seen(&endpoint, seen) || endpoint.failing_since == since {
            return Ok(());
        }
        self.apply(vec![Change::PutEndpoint(Endpoint { failing_since: since, ..(*endpoint).clone() })]).await
    }

    /// Makes a key. Its text is given out this once.
    pub async fn create_key(&self, role: Role) -> Result<(Arc<Key>, String), Rejected> {
        let _changing = self.changing.lock().await;
        if let Role::Merchant(id) = &role
            && self.merchant(id).is_none()
        {
            return Err(Rejected::NoMerchant);
        }
        let text = new_key(&role, &*self.entropy);
        let id = KeyId(self.new_number());
        let key = Key { id, role, digest: digest(&text), created_at: self.clock.now() };
        self.apply(vec![Change::PutKey(key.clone())]).await?;
        Ok((Arc::new(key), text))
    }

    /// Revokes a key, where `wanted` says yes to its role. False where there is none such.
    pub async fn delete_key(&self, id: KeyId, wanted: impl Fn(&Role) -> bool) -> Result<bool, Refusal> {
        let _changing = self.changing.lock().await;
        let known = self.state().keys.get(&id).is_some_and(|key| wanted(&key.role));
        if known {
            self.apply(vec![Change::DeleteKey(id)]).await?;
        }
        Ok(known)
    }

    /// Sets or forgets (`None`) owners, all or none. The merchants must exist.
    pub async fn change_owners(&self, owners: Vec<(OwnerKind, Arc<str>, Option<MerchantId>)>) -> Result<(), Refusal> {
        let changes = owners.into_iter().map(|(kind, id, owner)| match owner {
            Some(merchant) => Change::PutOwner(kind, id, merchant),
            None => Change::DeleteOwner(kind, id),
        });
        self.store.change(changes.collect()).await
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no panic while held")
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), Refusal> {
        self.store.change(changes.clone()).await?;
        // Told while nobody can read the new state yet: a delivery routed by it must find its shard informed.
        let mut state = self.state.write().expect("no panic while held");
        for change in changes.into_iter().filter_map(|change| state.apply(change)) {
            (self.sink)(change);
        }
        Ok(())
    }

    fn configured(&self, merchant: &MerchantId, known: Option<&Endpoint>, config: Config) -> Endpoint {
        let now = self.clock.now();
        let old_state = known.map(|endpoint| endpoint.state);
        let (secret, old_secrets) = self.secrets(known, config.secret, config.secret_grace_ms);
        let endpoint = Endpoint {
            id: known.map_or_else(|| EndpointId(self.new_number()), |endpoint| endpoint.id),
            merchant: merchant.clone(),
            url: config.url,
            event_types: config.event_types,
            secret,
            old_secrets,
            state: match (config.enabled, old_state) {
                (true, _) => EndpointState::Active,
                // Switching off what is switched off already keeps the reason.
                (false, Some(EndpointState::Disabled(reason))) => EndpointState::Disabled(reason),
                (false, _) => EndpointState::Paused,
            },
            ordering: config.ordering,
            rate: config.rate,
            failing_since: known.and_then(|endpoint| endpoint.failing_since),
            created_at: known.map_or(now, |endpoint| endpoint.created_at),
            updated_at: known.map_or(now, |endpoint| endpoint.updated_at),
        };
        if known == Some(&endpoint) {
            return endpoint;
        }
        // Whatever failed before, failed under another config. Never the same moment twice: it tells the
        // shard that something changed.
        let updated_at = known.map_or(now, |endpoint| now.max(endpoint.updated_at.plus_ms(1)));
        Endpoint { failing_since: None, updated_at, ..endpoint }
    }

    /// The secret that signs from now on, and those that go on signing beside it. A grace that has begun goes on when
    /// the secret is replaced once more: a receiver may still hold the one before the last.
    fn secrets(
        &self,
        known: Option<&Endpoint>,
        change: SecretChange,
        grace_ms: u64,
    ) -> (Option<Secret>, Vec<OldSecret>) {
        let now = self.clock.now();
        let current = known.and_then(|endpoint| endpoint.secret.clone());
        let mut old: Vec<OldSecret> =
            known.map_or_else(Vec::new, |endpoint| endpoint.old_secrets_at(now).cloned().collect());
        match change {
            SecretChange::Keep => (current, old),
            SecretChange::Remove => (None, Vec::new()),
            // Who asks for no grace asks that nothing but this secret signs.
            SecretChange::Replace(secret) if grace_ms == 0 => (Some(secret), Vec::new()),
            SecretChange::Replace(secret) if current.as_ref() == Some(&secret) => (current, old),
            SecretChange::Replace(secret) => {
                old.retain(|old| old.secret != secret);
                old.extend(current.map(|secret| OldSecret { secret, until: now.plus_ms(grace_ms) }));
                old.drain(..old.len().saturating_sub(Endpoint::OLD_SECRETS_MAX));
                (Some(secret), old)
            }
        }
    }

    /// A number that was never given out: 63 random bits, never 0.
    fn new_number(&self) -> u64 {
        ((self.entropy.number() as u64) >> 1).max(1)
    }
}

impl State {
    fn of(catalog: Catalog) -> State {
        let mut state = State { retries_paused_at: catalog.retries_paused_at, ..State::default() };
        let merchants = catalog.merchants.into_iter().map(Change::PutMerchant);
        let endpoints = catalog.endpoints.into_iter().map(Change::PutEndpoint);
        let keys = catalog.keys.into_iter().map(Change::PutKey);
        for change in merchants.chain(endpoints).chain(keys) {
            state.apply(change);
        }
        state
    }

    fn standing(&self, endpoint: &Endpoint) -> Standing {
        let merchant = self.merchants.get(&endpoint.merchant);
        Standing::of(endpoint.state, merchant.is_some_and(|merchant| merchant.paused_at.is_some()))
    }

    fn leave(&self, endpoint: &Endpoint) -> Leave {
        Leave::of(self.standing(endpoint), self.retries_paused_at.is_some())
    }

    fn apply(&mut self, change: Change) -> Option<EndpointChange> {
        match change {
            Change::PutMerchant(merchant) => {
                let id = merchant.id.clone();
                self.merchants.insert(id.clone(), Arc::new(merchant));
                let endpoint = self.endpoint_of.get(&id).and_then(|endpoint| self.endpoints.get(endpoint))?;
                return Some(EndpointChange::Put(Arc::clone(endpoint), self.leave(endpoint)));
            }
            Change::DeleteMerchant(id) => {
                self.merchants.remove(&id);
            }
            Change::PutEndpoint(endpoint) => {
                let endpoint = Arc::new(endpoint);
                self.endpoint_of.insert(endpoint.merchant.clone(), endpoint.id);
                self.endpoints.insert(endpoint.id, Arc::clone(&endpoint));
                let leave = self.leave(&endpoint);
                return Some(EndpointChange::Put(endpoint, leave));
            }
            Change::DeleteEndpoint(id) => {
                let endpoint = self.endpoints.remove(&id)?;
                self.endpoint_of.remove(&endpoint.merchant);
                return Some(EndpointChange::Deleted(id, endpoint.merchant.clone()));
            }
            Change::PutKey(key) => {
                self.keys_by_digest.insert(key.digest, key.id);
                self.keys.insert(key.id, Arc::new(key));
            }
            Change::DeleteKey(id) => {
                if let Some(key) = self.keys.remove(&id) {
                    self.keys_by_digest.remove(&key.digest);
                }
            }
            Change::PutOwner(..) | Change::DeleteOwner(..) => {}
        }
        None
    }
}

/// The tag of a config: changes whenever the config does.
pub fn tag(endpoint: &Endpoint) -> String {
    let mut hasher = Sha256::new();
    // Failing is no change of the config.
    hasher.update(format!("{:?}", Endpoint { failing_since: None, ..endpoint.clone() }));
    hasher.update(endpoint.secret.as_ref().map_or("", Secret::expose));
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hasher.finalize()[..12]))
}

/// SHA-256 of a key's text.
pub fn digest(text: &str) -> Digest {
    Sha256::digest(text.as_bytes()).into()
}

/// A new key: a prefix that tells the role, and 256 random bits.
pub fn new_key(role: &Role, entropy: &dyn Entropy) -> String {
    let prefix = match role {
        Role::Merchant(_) => "phm_",
        Role::Producer => "php_",
        Role::Operator => "pho_",
    };
    let mut bytes = [0; 32];
    entropy.fill(&mut bytes);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Whether an endpoint's config is still the one seen.
fn is_seen(now: &Endpoint, seen: &Endpoint) -> bool {
    *now == Endpoint { failing_since: now.failing_since, ..seen.clone() }
}

fn check(precondition: &Precondition, known: Option<&Endpoint>) -> Result<(), Rejected> {
    let holds = match precondition {
        Precondition::None => true,
        Precondition::Exists => known.is_some(),
        Precondition::Absent => known.is_none(),
        Precondition::Tags(tags) => known.is_some_and(|endpoint| tags.contains(&tag(endpoint))),
    };
    if holds { Ok(()) } else { Err(Rejected::Precondition) }
}
