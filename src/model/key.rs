//! Merchants, and the keys with which merchants, producers and operators speak to the product.
//!
//! Never holds a key itself, only its SHA-256.

use std::fmt;
use std::sync::Arc;

use super::{MerchantId, Timestamp};

/// SHA-256 of something.
pub type Digest = [u8; 32];

/// Whom a key speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// One merchant: config and history of its own.
    Merchant(MerchantId),
    /// A service of the platform: hands in events and owners.
    Producer,
    /// The people who run the product.
    Operator,
}

/// A key's public number, by which it is listed and revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", self.0)
    }
}

impl KeyId {
    /// From what `Display` prints.
    pub fn parse(text: &str) -> Option<KeyId> {
        text.strip_prefix("key_")?.parse().ok().map(KeyId)
    }
}

/// One key. A 256-bit random key needs no slow hash: its SHA-256 cannot be guessed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its public number.
    pub id: KeyId,
    /// Whom it speaks for.
    pub role: Role,
    /// SHA-256 of the key.
    pub digest: Digest,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A merchant of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merchant {
    /// The operator's name for it.
    pub id: MerchantId,
    /// A name for people.
    pub name: Option<Arc<str>>,
    /// When it was first put.
    pub created_at: Timestamp,
    /// Since when the operator holds all its deliveries back; absent: it does not.
    pub paused_at: Option<Timestamp>,
}
