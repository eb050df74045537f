//! What stands inside journal records: one frozen struct per kind and version, in bincode.
//!
//! Never edited once released: a new layout is a new struct with a new version, and the old one stays
//! readable. Never decoded before its checksum was checked, never without a size limit.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::model::{
    Attempt, Delivery, DisabledReason, Endpoint, EndpointId, EndpointState, ErrorCode, Event, EventId, EventType,
    EventTypes, Key, KeyId, Location, Merchant, MerchantId, OldSecret, Outcome, OwnerKind, Phases, Response, Role,
    Secret, Sent, Status, Timestamp,
};
use crate::store::{Change, Settlement};

/// The version that is written.
pub(crate) const VERSION: u8 = 1;

const DECODE_LEN_MAX: usize = 32 << 20;

/// The bytes passed their checksum and yet say nothing sensible: written by another version or by a bug.
#[derive(Debug, thiserror::Error)]
#[error("a record's body does not decode: {0}")]
pub(crate) struct Undecodable(pub(crate) String);

type Decoded<T> = Result<T, Undecodable>;

const fn config() -> Configuration<LittleEndian, Varint, Limit<DECODE_LEN_MAX>> {
    bincode::config::standard().with_limit::<DECODE_LEN_MAX>()
}

/// Encodes a body into `buffer`, replacing what it holds.
pub(crate) fn encode_into<T: Encode>(buffer: &mut Vec<u8>, body: &T) {
    buffer.clear();
    bincode::encode_into_std_write(body, buffer, bincode::config::standard()).expect("encoding into memory succeeds");
}

/// Decodes a whole body; trailing bytes are an error.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Decoded<T> {
    match bincode::decode_from_slice(bytes, config()) {
        Ok((body, used)) if used == bytes.len() => Ok(body),
        Ok((_, used)) => Err(Undecodable(format!("{} bytes left over", bytes.len() - used))),
        Err(error) => Err(Undecodable(error.to_string())),
    }
}

fn unknown(what: &str) -> Undecodable {
    Undecodable(format!("unknown {what}"))
}

/// Meta of an accepted event; its payload follows raw.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct AcceptedV1 {
    pub(crate) id: u128,
    /// By the clock; the id runs ahead of a clock that went back.
    pub(crate) accepted_at: i64,
    pub(crate) merchant: String,
    pub(crate) sequence: u64,
    pub(crate) event_type: u8,
    pub(crate) resource_id: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) occurred_at: Option<i64>,
    /// Digest of the producer's key and of the content, cut to 128 bits.
    pub(crate) idempotency: Option<(u128, u128)>,
    pub(crate) endpoints: Vec<u64>,
}

impl AcceptedV1 {
    pub(crate) fn event_type(&self) -> Decoded<EventType> {
        EventType::from_code(self.event_type).ok_or_else(|| unknown("event type"))
    }

    pub(crate) fn merchant(&self) -> Decoded<MerchantId> {
        merchant(&self.merchant)
    }

    pub(crate) fn into_event(self, payload: Bytes) -> Decoded<Event> {
        Ok(Event {
            id: EventId::from_u128(self.id),
            merchant: self.merchant()?,
            sequence: self.sequence,
            event_type: self.event_type()?,
            resource_id: self.resource_id.as_deref().map(Into::into),
            traceparent: self.traceparent.as_deref().map(Into::into),
            occurred_at: self.occurred_at.map(Timestamp::from_ms),
            payload,
        })
    }
}

/// Meta of a settlement; the kept response follows as payload where there is one.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct SettledV1 {
    pub(crate) event: u128,
    pub(crate) endpoint: u64,
    pub(crate) merchant: String,
    pub(crate) event_type: u8,
    pub(crate) resource: u64,
    pub(crate) sequence: u64,
    pub(crate) event_location: u64,
    pub(crate) last_attempt: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) old_status: u8,
    pub(crate) old_due: i64,
    pub(crate) status: u8,
    pub(crate) due: i64,
    pub(crate) at: i64,
    pub(crate) attempts_before: u32,
    pub(crate) attempt: Option<AttemptV1>,
}

impl SettledV1 {
    pub(crate) fn of(settlement: &Settlement) -> SettledV1 {
        let delivery = &settlement.delivery;
        SettledV1 {
            event: delivery.event.as_u128(),
            endpoint: delivery.endpoint.0,
            merchant: delivery.merchant.as_str().to_owned(),
            event_type: delivery.event_type.code(),
            resource: delivery.resource,
            sequence: delivery.sequence,
            event_location: delivery.location.0,
            last_attempt: delivery.last_attempt.map(|l| l.0),
            attempts: settlement.attempt.as_ref().map_or(delivery.attempts, |a| a.number),
            old_status: delivery.status.code(),
            old_due: delivery.due.as_ms(),
            status: settlement.status.code(),
            due: settlement.due.as_ms(),
            at: settlement.at.as_ms(),
            attempts_before: settlement.attempts_before,
            attempt: settlement.attempt.as_ref().map(AttemptV1::of),
        }
    }

    pub(crate) fn event_type(&self) -> Decoded<EventType> {
        EventType::from_code(self.event_type).ok_or_else(|| unknown("event type"))
    }

    pub(crate) fn statuses(&self) -> Decoded<(Status, Status)> {
        let status = |code| Status::from_code(code).ok_or_else(|| unknown("status"));
        Ok((status(self.old_status)?, status(self.status)?))
    }

    /// The delivery as this record left it, standing at `written`.
    pub(crate) fn delivery(&self, written: Location) -> Decoded<Delivery> {
        let (_, status) = self.statuses()?;
        Ok(Delivery {
            event: EventId::from_u128(self.event),
            endpoint: EndpointId(self.endpoint),
            merchant: merchant(&self.merchant)?,
            event_type: self.event_type()?,
            resource: self.resource,
            sequence: self.sequence,
            location: Location(self.event_location),
            written,
            last_attempt: if self.attempt.is_some() { Some(written) } else { self.last_attempt.map(Location) },
            attempts: self.attempts,
            attempts_before: self.attempts_before,
            status,
            due: Timestamp::from_ms(if status.is_waiting() { self.due } else { self.old_due }),
            payload: None,
            traceparent: None,
        })
    }
}

/// An attempt without its response.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct AttemptV1 {
    number: u32,
    started_at: i64,
    duration_ms: u32,
    phases_us: [Option<u32>; 5],
    status_code: Option<u16>,
    error: Option<u8>,
    retry_after_ms: Option<u64>,
    sent: SentBody,
    response_kept: bool,
}

/// What was sent. Its first byte is also that of an `Option` of the first layout, which is what was written once.
#[derive(Clone, Debug, Encode, Decode)]
enum SentBody {
    Nothing,
    V1(SentV1),
    V2(SentV2),
}

/// Read only.
#[derive(Clone, Debug, Encode, Decode)]
struct SentV1 {
    timestamp_s: i64,
    signature: Option<[u8; 32]>,
    signature_old: Option<[u8; 32]>,
    standard: Option<[u8; 32]>,
    standard_old: Option<[u8; 32]>,
}

#[derive(Clone, Debug, Encode, Decode)]
struct SentV2 {
    timestamp_s: i64,
    signature: Option<[u8; 32]>,
    signature_old: Option<[u8; 32]>,
    standard: Option<[u8; 32]>,
    standards_old: Vec<[u8; 32]>,
}

impl SentBody {
    fn of(sent: Option<&Sent>) -> SentBody {
        let Some(Sent { timestamp_s, signature, signature_old, standard, standards_old }) = sent.cloned() else {
            return SentBody::Nothing;
        };
        SentBody::V2(SentV2 { timestamp_s, signature, signature_old, standard, standards_old })
    }

    fn into_sent(self) -> Option<Sent> {
        match self {
            SentBody::Nothing => None,
            SentBody::V1(SentV1 { timestamp_s, signature, signature_old, standard, standard_old }) => {
                let standards_old = standard_old.into_iter().collect();
                Some(Sent { timestamp_s, signature, signature_old, standard, standards_old })
            }
            SentBody::V2(SentV2 { timestamp_s, signature, signature_old, standard, standards_old }) => {
                Some(Sent { timestamp_s, signature, signature_old, standard, standards_old })
            }
        }
    }
}

/// The kept part of a response.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct ResponseV1 {
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    truncated: bool,
}

impl ResponseV1 {
    pub(crate) fn of(response: &Response) -> ResponseV1 {
        ResponseV1 { headers: response.headers.clone(), body: response.body.to_vec(), truncated: response.truncated }
    }
}

impl AttemptV1 {
    fn of(attempt: &Attempt) -> AttemptV1 {
        let Phases { dns_us, connect_us, tls_us, head_us, body_us } = attempt.phases;
        let retry_after_ms = match attempt.outcome {
            Outcome::Success { .. } => None,
            Outcome::Failure { retry_after_ms, .. } => retry_after_ms,
        };
        AttemptV1 {
            number: attempt.number,
            started_at: attempt.started_at.as_ms(),
            duration_ms: attempt.duration_ms,
            phases_us: [dns_us, connect_us, tls_us, head_us, body_us],
            status_code: attempt.outcome.status(),
            error: attempt.outcome.error().map(ErrorCode::code),
            retry_after_ms,
            sent: SentBody::of(attempt.sent.as_ref()),
            response_kept: attempt.response.is_some(),
        }
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        Timestamp::from_ms(self.started_at)
    }

    pub(crate) fn summary(&self) -> Decoded<(Option<u16>, Option<ErrorCode>, u32)> {
        Ok((self.status_code, self.error()?, self.duration_ms))
    }

    fn error(&self) -> Decoded<Option<ErrorCode>> {
        self.error.map(|code| ErrorCode::from_code(code).ok_or_else(|| unknown("error code"))).transpose()
    }

    /// The attempt, with the response that followed its record's meta.
    pub(crate) fn into_attempt(self, payload: &[u8]) -> Decoded<Attempt> {
        let outcome = match (self.error()?, self.status_code) {
            (None, Some(status)) => Outcome::Success { status },
            (None, None) => return Err(unknown("outcome")),
            (Some(error), status) => Outcome::Failure { error, status, retry_after_ms: self.retry_after_ms },
        };
        let response = if self.response_kept {
            let kept: ResponseV1 = decode(payload)?;
            Some(Response { headers: kept.headers, body: kept.body.into(), truncated: kept.truncated })
        } else {
            None
        };
        let [dns_us, connect_us, tls_us, head_us, body_us] = self.phases_us;
        Ok(Attempt {
            number: self.number,
            started_at: Timestamp::from_ms(self.started_at),
            duration_ms: self.duration_ms,
            phases: Phases { dns_us, connect_us, tls_us, head_us, body_us },
            outcome,
            sent: self.sent.into_sent(),
            response,
        })
    }
}

/// One change of what is configured. What it puts has a layout of its own; a newer one has an entry of its own.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) enum ChangeV1 {
    PutMerchant(MerchantV1),
    DeleteMerchant(String),
    PutEndpoint(EndpointV1),
    DeleteEndpoint(u64),
    PutKey(KeyV1),
    DeleteKey(u64),
    PutOwner(u8, String, String),
    DeleteOwner(u8, String),
    PutEndpointV2(EndpointV2),
    PutMerchantV2(MerchantV2),
}

/// A merchant as it was written first. Read only.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct MerchantV1 {
    id: String,
    name: Option<String>,
    created_at: i64,
}

/// A merchant, in the journal and in the index.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct MerchantV2 {
    id: String,
    name: Option<String>,
    created_at: i64,
    paused_at: Option<i64>,
}

/// An endpoint as it was written first. Read only.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct EndpointV1 {
    id: u64,
    merchant: String,
    url: String,
    event_types: u8,
    secret: Option<String>,
    old_secret: Option<(String, i64)>,
    /// 0 active, 1 paused, 2 disabled because gone.
    state: u8,
    created_at: i64,
    updated_at: i64,
}

/// An endpoint, in the journal and in the index.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct EndpointV2 {
    id: u64,
    merchant: String,
    url: String,
    event_types: u8,
    secret: Option<String>,
    old_secrets: Vec<(String, i64)>,
    /// 0 active, 1 paused, 2 disabled because gone.
    state: u8,
    created_at: i64,
    updated_at: i64,
}

/// A key's digest, in the journal and in the index.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct KeyV1 {
    id: u64,
    /// 0 merchant, 1 producer, 2 operator.
    role: u8,
    merchant: Option<String>,
    digest: [u8; 32],
    created_at: i64,
}

impl ChangeV1 {
    pub(crate) fn of(change: &Change) -> ChangeV1 {
        match change {
            Change::PutMerchant(merchant) => ChangeV1::PutMerchantV2(MerchantV2::of(merchant)),
            Change::DeleteMerchant(id) => ChangeV1::DeleteMerchant(id.as_str().to_owned()),
            Change::PutEndpoint(endpoint) => ChangeV1::PutEndpointV2(EndpointV2::of(endpoint)),
            Change::DeleteEndpoint(id) => ChangeV1::DeleteEndpoint(id.0),
            Change::PutKey(key) => ChangeV1::PutKey(KeyV1::of(key)),
            Change::DeleteKey(id) => ChangeV1::DeleteKey(id.0),
            Change::PutOwner(kind, id, merchant) => {
                ChangeV1::PutOwner(owner_code(*kind), (**id).to_owned(), merchant.as_str().to_owned())
            }
            Change::DeleteOwner(kind, id) => ChangeV1::DeleteOwner(owner_code(*kind), (**id).to_owned()),
        }
    }

    pub(crate) fn into_change(self) -> Decoded<Change> {
        Ok(match self {
            ChangeV1::PutMerchant(body) => Change::PutMerchant(body.into_v2().into_merchant()?),
            ChangeV1::PutMerchantV2(body) => Change::PutMerchant(body.into_merchant()?),
            ChangeV1::DeleteMerchant(id) => Change::DeleteMerchant(merchant(&id)?),
            ChangeV1::PutEndpoint(body) => Change::PutEndpoint(body.into_v2().into_endpoint()?),
            ChangeV1::PutEndpointV2(body) => Change::PutEndpoint(body.into_endpoint()?),
            ChangeV1::DeleteEndpoint(id) => Change::DeleteEndpoint(EndpointId(id)),
            ChangeV1::PutKey(body) => Change::PutKey(body.into_key()?),
            ChangeV1::DeleteKey(id) => Change::DeleteKey(KeyId(id)),
            ChangeV1::PutOwner(kind, id, name) => Change::PutOwner(owner_kind(kind)?, id.into(), merchant(&name)?),
            ChangeV1::DeleteOwner(kind, id) => Change::DeleteOwner(owner_kind(kind)?, id.into()),
        })
    }
}

impl MerchantV1 {
    fn into_v2(self) -> MerchantV2 {
        let MerchantV1 { id, name, created_at } = self;
        MerchantV2 { id, name, created_at, paused_at: None }
    }
}

impl MerchantV2 {
    pub(crate) fn of(merchant: &Merchant) -> MerchantV2 {
        MerchantV2 {
            id: merchant.id.as_str().to_owned(),
            name: merchant.name.as_deref().map(str::to_owned),
            created_at: merchant.created_at.as_ms(),
            paused_at: merchant.paused_at.map(Timestamp::as_ms),
        }
    }

    pub(crate) fn into_merchant(self) -> Decoded<Merchant> {
        Ok(Merchant {
            id: merchant(&self.id)?,
            name: self.name.map(Into::into),
            created_at: Timestamp::from_ms(self.created_at),
            paused_at: self.paused_at.map(Timestamp::from_ms),
        })
    }
}

impl EndpointV1 {
    fn into_v2(self) -> EndpointV2 {
        let EndpointV1 { id, merchant, url, event_types, secret, old_secret, state, created_at, updated_at } = self;
        let old_secrets = old_secret.into_iter().collect();
        EndpointV2 { id, merchant, url, event_types, secret, old_secrets, state, created_at, updated_at }
    }
}

impl EndpointV2 {
    pub(crate) fn of(endpoint: &Endpoint) -> EndpointV2 {
        let old_secrets = endpoint.old_secrets.iter();
        EndpointV2 {
            id: endpoint.id.0,
            merchant: endpoint.merchant.as_str().to_owned(),
            url: (*endpoint.url).to_owned(),
            event_types: endpoint.event_types.bits(),
            secret: endpoint.secret.as_ref().map(|s| s.expose().to_owned()),
            old_secrets: old_secrets.map(|old| (old.secret.expose().to_owned(), old.until.as_ms())).collect(),
            state: match endpoint.state {
                EndpointState::Active => 0,
                EndpointState::Paused => 1,
                EndpointState::Disabled(DisabledReason::Gone) => 2,
            },
            created_at: endpoint.created_at.as_ms(),
            updated_at: endpoint.updated_at.as_ms(),
        }
    }

    pub(crate) fn into_endpoint(self) -> Decoded<Endpoint> {
        let secret = |text: &str| Secret::new(text).ok_or_else(|| unknown("secret"));
        let old_secret =
            |(text, until): &(String, i64)| Ok(OldSecret { secret: secret(text)?, until: Timestamp::from_ms(*until) });
        Ok(Endpoint {
            id: EndpointId(self.id),
            merchant: merchant(&self.merchant)?,
            url: self.url.into(),
            event_types: EventTypes::from_bits(self.event_types).ok_or_else(|| unknown("event types"))?,
            secret: self.secret.as_deref().map(secret).transpose()?,
            old_secrets: self.old_secrets.iter().map(old_secret).collect::<Decoded<_>>()?,
            state: match self.state {
                0 => EndpointState::Active,
                1 => EndpointState::Paused,
                2 => EndpointState::Disabled(DisabledReason::Gone),
                _ => return Err(unknown("endpoint state")),
            },
            created_at: Timestamp::from_ms(self.created_at),
            updated_at: Timestamp::from_ms(self.updated_at),
        })
    }
}

impl KeyV1 {
    pub(crate) fn of(key: &Key) -> KeyV1 {
        let (role, merchant) = match &key.role {
            Role::Merchant(id) => (0, Some(id.as_str().to_owned())),
            Role::Producer => (1, None),
            Role::Operator => (2, None),
        };
        KeyV1 { id: key.id.0, role, merchant, digest: key.digest, created_at: key.created_at.as_ms() }
    }

    pub(crate) fn into_key(self) -> Decoded<Key> {
        let role = match (self.role, self.merchant) {
            (0, Some(id)) => Role::Merchant(merchant(&id)?),
            (1, None) => Role::Producer,
            (2, None) => Role::Operator,
            _ => return Err(unknown("role")),
        };
        Ok(Key { id: KeyId(self.id), role, digest: self.digest, created_at: Timestamp::from_ms(self.created_at) })
    }
}

pub(crate) fn merchant(text: &str) -> Decoded<MerchantId> {
    text.parse().map_err(|_| unknown("merchant id"))
}

/// The number on disk of an owner kind.
pub(crate) fn owner_code(kind: OwnerKind) -> u8 {
    match kind {
        OwnerKind::Account => 0,
        OwnerKind::Card => 1,
    }
}

fn owner_kind(code: u8) -> Decoded<OwnerKind> {
    match code {
        0 => Ok(OwnerKind::Account),
        1 => Ok(OwnerKind::Card),
        _ => Err(unknown("owner kind")),
    }
}
