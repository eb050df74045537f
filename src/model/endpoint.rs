//! An endpoint: where a merchant wants to be told, about what, and in which state it is.
//!
//! Never shows a secret: `Debug` of one prints its length only.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::{EndpointId, EventType, MerchantId, Timestamp};

/// A signing secret, 1 to 256 bytes of UTF-8. Printing it shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The longest secret in bytes.
    pub const LEN_MAX: usize = 256;

    /// `None` where the text is empty or too long.
    pub fn new(text: &str) -> Option<Secret> {
        (!text.is_empty() && text.len() <= Self::LEN_MAX).then(|| Secret(text.into()))
    }

    /// The secret itself, for signing and for storing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The last four characters, where the secret is long enough that they give nothing away.
    pub fn hint(&self) -> String {
        let chars: Vec<char> = self.0.chars().collect();
        let shown = if chars.len() >= 16 { 4 } else { 0 };
        let tail: String = chars[chars.len() - shown..].iter().collect();
        format!("…{tail}")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A set of event types; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTypes(u8);

impl EventTypes {
    /// Everything, also types that do not exist yet.
    pub const EVERY: EventTypes = EventTypes(u8::MAX);

    /// Exactly these; `None` where there are none.
    pub fn only(types: impl IntoIterator<Item = EventType>) -> Option<EventTypes> {
        let bits = types.into_iter().fold(0, |bits, t| bits | 1 << t.code());
        (bits != 0).then_some(EventTypes(bits))
    }

    /// Whether `event_type` is wanted.
    pub fn contains(self, event_type: EventType) -> bool {
        self.0 & 1 << event_type.code() != 0
    }

    /// Whether this is "all", as opposed to a list that happens to name every type.
    pub fn is_every(self) -> bool {
        self == EventTypes::EVERY
    }

    /// The types in it, in the order of the merchants' page.
    pub fn iter(self) -> impl Iterator<Item = EventType> {
        EventType::ALL.into_iter().filter(move |t| self.contains(*t))
    }

    /// The number on disk.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From the number on disk; `None` for the empty set.
    pub fn from_bits(bits: u8) -> Option<EventTypes> {
        (bits != 0).then_some(EventTypes(bits))
    }
}

/// Why an endpoint was switched off by the product rather than by its merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisabledReason {
    /// The receiver answered 410 Gone.
    Gone,
    /// Nothing but failures came from it for too long.
    Failing,
}

impl DisabledReason {
    /// All reasons.
    pub const ALL: [DisabledReason; 2] = [DisabledReason::Gone, DisabledReason::Failing];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            DisabledReason::Gone => "gone",
            DisabledReason::Failing => "failing",
        }
    }
}

/// Whether deliveries leave. In every state but `Active` they wait and nothing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Deliveries leave.
    Active,
    /// The merchant switched delivery off.
    Paused,
    /// The product switched delivery off; the merchant switches it on again.
    Disabled(DisabledReason),
}

impl EndpointState {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointState::Active => "active",
            EndpointState::Paused => "paused",
            EndpointState::Disabled(_) => "disabled",
        }
    }
}

/// Whether deliveries leave, all told: the endpoint's own state, unless the operator has paused its merchant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As its own state says.
    Own(EndpointState),
    /// It is active, and the operator has paused its merchant.
    Held,
}

impl Standing {
    /// Of an endpoint in this state, whose merchant is paused or not.
    pub fn of(state: EndpointState, merchant_is_paused: bool) -> Standing {
        match state {
            EndpointState::Active if merchant_is_paused => Standing::Held,
            state => Standing::Own(state),
        }
    }

    /// Whether deliveries leave.
    pub fn leaves(self) -> bool {
        self == Standing::Own(EndpointState::Active)
    }

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::Own(state) => state.as_str(),
            Standing::Held => EndpointState::Paused.as_str(),
        }
    }

    /// Why, where its merchant did not choose it.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Standing::Own(EndpointState::Active | EndpointState::Paused) => None,
            Standing::Own(EndpointState::Disabled(reason)) => Some(reason.as_str()),
            Standing::Held => Some("operator"),
        }
    }
}

/// What of an endpoint's deliveries leaves, all told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// All of them.
    All,
    /// First attempts, and what is sent again by hand: the operator has paused the retries of everybody.
    FirstAttempts,
    /// None.
    Nothing,
}

impl Leave {
    /// Of an endpoint that stands so, while retries are paused or not.
    pub fn of(standing: Standing, retries_are_paused: bool) -> Leave {
        match (standing.leaves(), retries_are_paused) {
            (false, _) => Leave::Nothing,
            (true, true) => Leave::FirstAttempts,
            (true, false) => Leave::All,
        }
    }
}

/// Which deliveries of one endpoint must not overtake each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// Each leaves as soon as it can.
    #[default]
    Free,
    /// Those of one resource leave in the order of their sequence, each once the one before it has ended.
    Resource,
}

impl Ordering {
    /// All orderings.
    pub const ALL: [Ordering; 2] = [Ordering::Free, Ordering::Resource];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Ordering::Free => "none",
            Ordering::Resource => "resource",
        }
    }
}

/// What decides how an endpoint's deliveries leave, beside whether they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Which must not overtake each other.
    pub ordering: Ordering,
    /// The most attempts a second, where the merchant set one.
    pub rate: Option<NonZeroU32>,
    /// Since when nothing but failures came from it, where that has lasted.
    pub failing_since: Option<Timestamp>,
    /// When somebody last changed the endpoint: what it did before says nothing any more.
    pub changed_at: Timestamp,
}

/// A secret before the current one, which still signs for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldSecret {
    /// The replaced secret.
    pub secret: Secret,
    /// The moment from which it no longer signs.
    pub until: Timestamp,
}

/// Where one merchant wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its number.
    pub id: EndpointId,
    /// Its owner.
    pub merchant: MerchantId,
    /// The URL, as the URL parser prints it.
    pub url: Arc<str>,
    /// What it wants to hear of.
    pub event_types: EventTypes,
    /// Signs every request, where set.
    pub secret: Option<Secret>,
    /// Each signs beside `secret` until its grace ends. The one replaced first stands first; at most
    /// [`Endpoint::OLD_SECRETS_MAX`].
    pub old_secrets: Vec<OldSecret>,
    /// Whether deliveries leave.
    pub state: EndpointState,
    /// Which deliveries must not overtake each other.
    pub ordering: Ordering,
    /// The most attempts a second, where the merchant set one.
    pub rate: Option<NonZeroU32>,
    /// Since when nothing but failures came from it, where that has lasted long enough to be recorded. No change of
    /// the config.
    pub failing_since: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a merchant or the product last changed it.
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// Secrets that were replaced and still sign. With one more the one replaced first signs no longer.
    pub const OLD_SECRETS_MAX: usize = 4;

    /// How its deliveries leave.
    pub fn terms(&self) -> Terms {
        Terms {
            ordering: self.ordering,
            rate: self.rate,
            failing_since: self.failing_since,
            changed_at: self.updated_at,
        }
    }

    /// The old secrets whose grace has not ended at `now`, the one replaced first first.
    pub fn old_secrets_at(&self, now: Timestamp) -> impl Iterator<Item = &OldSecret> {
        self.old_secrets.iter().filter(move |old| now < old.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secret = Secret::new("correct horse battery staple").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(28 bytes)");
        assert_eq!(secret.hint(), "…aple");
        assert_eq!(Secret::new("short").unwrap().hint(), "…");
        assert!(Secret::new("").is_none());
        assert!(Secret::new(&"x".repeat(256)).is_some());
        assert!(Secret::new(&"x".repeat(257)).is_none());
    }

    #[test]
    fn every_is_not_the_same_as_a_full_list() {
        let listed = EventTypes::only(EventType::ALL).unwrap();
        assert!(!listed.is_every());
        assert!(EventType::ALL.into_iter().all(|t| listed.contains(t) && EventTypes::EVERY.contains(t)));
        assert_eq!(EventTypes::only([]), None);
    }
}
