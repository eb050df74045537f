//! Idle connections, kept for the endpoint that opened them.
//!
//! Never hands a connection to another endpoint, however equal the host: an answer that lingers in one must not
//! be read as another merchant's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::link::Link;
use crate::model::EndpointId;

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
/// for longest, and each list of `by_endpoint` ends with the one that was used last.
#[derive(Default)]
struct Idle {
    by_endpoint: HashMap<EndpointId, Vec<Entry>>,
    by_age: BTreeMap<u64, EndpointId>,
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

    /// The connection that this endpoint used last, where one is young enough and leads to `url`: what led to the URL
    /// that it had before is closed. It may have died meanwhile.
    pub(super) fn take(&self, endpoint: EndpointId, url: &str, now: Instant) -> Option<Link> {
        let mut idle = self.lock();
        while let Some(entry) = idle.pop(endpoint) {
            let is_fresh = now.duration_since(entry.since) < self.limits.idle && self.is_young(&entry.link, now);
            if is_fresh && entry.link.target().url == url {
                return Some(entry.link);
            }
        }
        None
    }

    /// Keeps a connection that has nothing left to read. Makes room by closing what has been idle for longest.
    pub(super) fn put(&self, endpoint: EndpointId, link: Link, now: Instant) {
        if !self.is_young(&link, now) {
            return;
        }
        let mut closed = Vec::new();
        let mut idle = self.lock();
        if idle.count(endpoint) >= self.limits.idle_per_endpoint_max {
            return;
        }
        idle.push(endpoint, link, now);
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
        let Idle { by_endpoint, by_age, .. } = &mut *idle;
        by_endpoint.retain(|_, entries| {
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
    fn count(&self, endpoint: EndpointId) -> usize {
        self.by_endpoint.get(&endpoint).map_or(0, Vec::len)
    }

    fn push(&mut self, endpoint: EndpointId, link: Link, since: Instant) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.by_age.insert(ticket, endpoint);
        self.by_endpoint.entry(endpoint).or_default().push(Entry { ticket, since, link });
    }

    fn pop(&mut self, endpoint: EndpointId) -> Option<Entry> {
        let entries = self.by_endpoint.get_mut(&endpoint)?;
        let entry = entries.pop()?;
        if entries.is_empty() {
            self.by_endpoint.remove(&endpoint);
        }
        self.by_age.remove(&entry.ticket);
        Some(entry)
    }

    fn oldest_since(&self) -> Option<Instant> {
        let (_, endpoint) = self.by_age.first_key_value()?;
        self.by_endpoint.get(endpoint)?.first().map(|entry| entry.since)
    }

    /// Within an endpoint tickets grow, so that the oldest of all is the first of its list.
    fn pop_oldest(&mut self) -> Option<Entry> {
        let (_, endpoint) = self.by_age.pop_first()?;
        let entries = self.by_endpoint.get_mut(&endpoint)?;
        let entry = entries.remove(0);
        if entries.is_empty() {
            self.by_endpoint.remove(&endpoint);
        }
        Some(entry)
    }
}
