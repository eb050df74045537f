//! Idle connections, kept for the endpoint that opened them.
//!
//! Never hands a connection to another endpoint, however equal the host: an answer that lingers in one must not
//! be read as another merchant's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use url::Host;

use super::link::Link;
use crate::model::EndpointId;
use crate::policy::egress::{Scheme, Target};

/// Whose connection, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    endpoint: EndpointId,
    scheme: Scheme,
    host: Host<String>,
    port: u16,
}

impl Key {
    pub(super) fn new(endpoint: EndpointId, target: &Target) -> Key {
        Key { endpoint, scheme: target.scheme, host: target.host.clone(), port: target.port }
    }
}

/// How many, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    pub(super) idle: Duration,
    pub(super) age: Duration,
    pub(super) uses_max: u32,
    pub(super) idle_per_endpoint_max: usize,
    pub(super) idle_max: usize,
}

/// The idle connections of all endpoints.
pub(super) struct Pool {
    limits: PoolLimits,
    idle: Mutex<Idle>,
}

/// Every entry is in both maps. Tickets grow, so that `by_age` begins with the connection that has been idle
/// for longest, and each list of `by_key` ends with the one that was used last.
#[derive(Default)]
struct Idle {
    by_key: HashMap<Key, Vec<Entry>>,
    by_age: BTreeMap<u64, Key>,
    last_ticket: u64,
}

struct Entry {
    ticket: u64,
    since: Instant,
    link: Link,
}

impl Pool {
    pub(super) fn new(limits: PoolLimits) -> Pool {
        Pool { limits, idle: Mutex::default() }
    }

    /// The connection of this key that was used last, where one is young enough. It may have died meanwhile.
    pub(super) fn take(&self, key: &Key, now: Instant) -> Option<Link> {
        let mut idle = self.lock();
        while let Some(entry) = idle.pop(key) {
            if now.duration_since(entry.since) < self.limits.idle && self.is_young(&entry.link, now) {
                return Some(entry.link);
            }
        }
        None
    }

    /// Keeps a connection that has nothing left to read. Makes room by closing what has been idle for longest.
    pub(super) fn put(&self, key: Key, link: Link, now: Instant) {
        if !self.is_young(&link, now) {
            return;
        }
        let mut closed = Vec::new();
        let mut idle = self.lock();
        if idle.count(&key) >= self.limits.idle_per_endpoint_max {
            return;
        }
        idle.push(key, link, now);
        while idle.by_age.len() > self.limits.idle_max
            || idle.oldest_since().is_some_and(|since| now.duration_since(since) >= self.limits.idle)
        {
            closed.extend(idle.pop_oldest());
        }
        // Sockets are closed outside the lock.
        drop(idle);
    }

    /// Closes what has been idle for too long or was closed by its receiver.
    pub(super) fn sweep(&self, now: Instant) {
        let mut closed = Vec::new();
        let mut idle = self.lock();
        let Idle { by_key, by_age, .. } = &mut *idle;
        by_key.retain(|_, entries| {
            let dead = |entry: &mut Entry| {
                now.duration_since(entry.since) >= self.limits.idle
                    || !self.is_young(&entry.link, now)
                    || !entry.link.is_still_idle()
            };
            for entry in entries.extract_if(.., dead) {
                by_age.remove(&entry.ticket);
                closed.push(entry);
            }
            !entries.is_empty()
        });
        drop(idle);
    }

    /// How many connections are idle.
    pub(super) fn len(&self) -> usize {
        self.lock().by_age.len()
    }

    fn is_young(&self, link: &Link, now: Instant) -> bool {
        now.duration_since(link.opened()) < self.limits.age && link.uses() < self.limits.uses_max
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Nothing in here panics between the two maps' changes.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn count(&self, key: &Key) -> usize {
        self.by_key.get(key).map_or(0, Vec::len)
    }

    fn push(&mut self, key: Key, link: Link, since: Instant) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.by_age.insert(ticket, key.clone());
        self.by_key.entry(key).or_default().push(Entry { ticket, since, link });
    }

    fn pop(&mut self, key: &Key) -> Option<Entry> {
        let entries = self.by_key.get_mut(key)?;
        let entry = entries.pop()?;
        if entries.is_empty() {
            self.by_key.remove(key);
        }
        self.by_age.remove(&entry.ticket);
        Some(entry)
    }

    fn oldest_since(&self) -> Option<Instant> {
        let (_, key) = self.by_age.first_key_value()?;
        self.by_key.get(key)?.first().map(|entry| entry.since)
    }

    /// Within a key tickets grow, so that the oldest of all is the first of its list.
    fn pop_oldest(&mut self) -> Option<Entry> {
        let (_, key) = self.by_age.pop_first()?;
        let entries = self.by_key.get_mut(&key)?;
        let entry = entries.remove(0);
        if entries.is_empty() {
            self.by_key.remove(&key);
        }
        Some(entry)
    }
}
