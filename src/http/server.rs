//! The accept loop of one listener, its limits and its end.
//!
//! Never accepts what it has no room for: what waits, waits in the kernel. Never dies or spins when the process
//! runs out of file descriptors.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use metrics::{Counter, Gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{self, Shared};
use super::route::{Routes, Table};
use super::tls::Tls;

/// How long the loop waits after an `accept` that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. Further ones wait in the kernel.
    pub connections_max: usize,
    /// Connections at a time from one address (IPv6: one /64). Further ones are closed at once.
    pub connections_per_ip_max: usize,
    /// From a connection to its first byte, and from a head's first byte to its end.
    pub head_timeout_ms: u64,
    /// Request line and headers together, and trailers; more is 431.
    pub head_bytes_max: usize,
    /// Headers; more is 431.
    pub headers_max: usize,
    /// The request target; more is 414, or 431 where the head is too large already.
    pub uri_bytes_max: usize,
    /// From the first look at a body to its end; more is 408.
    pub body_timeout_ms: u64,
    /// Request bodies in memory, all connections together; more is 503.
    pub body_bytes_in_flight_max: usize,
    /// TLS handshake.
    pub tls_handshake_timeout_ms: u64,
    /// From an answer to the next request's first byte.
    pub keep_alive_idle_ms: u64,
    /// Longest time in which a client takes nothing of its answer.
    pub write_timeout_ms: u64,
    /// How long a client that was refused may go on sending, so that it sees the answer instead of a reset,
    pub linger_ms: u64,
    /// and how many bytes.
    pub linger_bytes_max: usize,
    /// From the wish to stop to the end of the last connection.
    pub drain_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            connections_per_ip_max: 256,
            head_timeout_ms: 5_000,
            head_bytes_max: 16 * 1024,
            headers_max: 64,
            uri_bytes_max: 2048,
            body_timeout_ms: 10_000,
            body_bytes_in_flight_max: 64 * 1024 * 1024,
            tls_handshake_timeout_ms: 5_000,
            keep_alive_idle_ms: 30_000,
            write_timeout_ms: 10_000,
            linger_ms: 2_000,
            linger_bytes_max: 1024 * 1024,
            drain_ms_max: 15_000,
        }
    }
}

/// What a listener tells about itself.
#[derive(Clone)]
pub struct Hooks {
    /// Connections open now.
    pub connections_open: Gauge,
    /// Connections closed because their address has too many.
    pub connections_refused: Counter,
    /// Connections that ended badly: no head in time, not HTTP, no handshake, reset.
    pub connections_broken: Counter,
    /// Calls of `accept` that failed.
    pub accept_failures: Counter,
    /// Answers to requests by class of status: 1xx to 5xx. What is answered to what is no request (400, 431) is not
    /// among them but among the broken connections.
    pub answers: [Counter; 5],
}

impl Default for Hooks {
    /// Tells nobody.
    fn default() -> Hooks {
        Hooks {
            connections_open: Gauge::noop(),
            connections_refused: Counter::noop(),
            connections_broken: Counter::noop(),
            accept_failures: Counter::noop(),
            answers: [const { Counter::noop() }; 5],
        }
    }
}

impl Hooks {
    pub(super) fn count(&self, status: StatusCode) {
        if let Some(counter) = self.answers.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            counter.increment(1);
        }
    }
}

/// One listener, ready to serve.
pub struct Server {
    /// `public`, `ingest` or `admin`: for the log.
    pub name: &'static str,
    /// Who answers what.
    pub routes: Routes,
    /// Absent: plain text.
    pub tls: Option<Tls>,
    /// What it bears.
    pub limits: Limits,
    /// Whom it tells.
    pub hooks: Hooks,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not end in time.
    pub abandoned: usize,
}

impl Server {
    /// Serves `listener` until `shutdown` ends; then accepts no more, lets every request under way be answered,
    /// and returns when the last connection has ended or `drain_ms_max` is over.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Drained {
        let limits = self.limits;
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        let addresses = Arc::new(Addresses { max: limits.connections_per_ip_max, open: Mutex::default() });
        let shared = Arc::new(Shared {
            name: self.name,
            limits,
            hooks: self.hooks,
            table: Table::new(&self.routes),
            tls: self.tls.as_ref().map(Tls::acceptor),
            memory: Arc::new(Semaphore::new(limits.body_bytes_in_flight_max)),
        });
        let (drain, draining) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                (stream, remote, slot) = accept(&listener, &slots, &shared) => {
                    let Some(place) = addresses.enter(remote.ip()) else {
                        shared.hooks.connections_refused.increment(1);
                        continue;
                    };
                    let open = Open::count(&shared.hooks);
                    let serving = connection::run(Arc::clone(&shared), stream, draining.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop((open, place, slot));
                    });
                }
            }
        }
        drop(listener);
        drain.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_millis(limits.drain_ms_max), ended).await;
        Drained { abandoned: connections.len() }
    }
}

/// The next connection, with the slot that was free before it came. May be dropped and called again.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shared: &Shared,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots).acquire_owned().await.expect("nobody closes the slots of a listener");
    let mut is_told = false;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => return (stream, remote, slot),
            Err(error) => {
                shared.hooks.accept_failures.increment(1);
                if is_of_the_client(&error) {
                    continue;
                }
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(listener = shared.name, %error, "cannot accept connections, trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the connection failed that was to be accepted, rather than the accepting (accept(2)).
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// Counts an open connection for as long as it lives.
struct Open(Gauge);

impl Open {
    fn count(hooks: &Hooks) -> Open {
        hooks.connections_open.increment(1);
        Open(hooks.connections_open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// How many connections each address has.
struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address.
struct Place {
    address: IpAddr,
    addresses: Arc<Addresses>,
}

impl Addresses {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = owner(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { address, addresses: Arc::clone(self) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Whom an address belongs to: one customer of IPv6 has a whole /64.
fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_v4_address_or_a_v6_network() {
        for (address, expect) in
            [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::")]
        {
            let owner = owner(address.parse().expect("an address"));
            assert_eq!(owner.to_string(), expect, "{address}");
        }
    }

    #[test]
    fn places_come_back() {
        let addresses = Arc::new(Addresses { max: 1, open: Mutex::default() });
        let place = addresses.enter(IpAddr::from([192, 0, 2, 7])).expect("room for one");
        assert!(addresses.enter(IpAddr::from([192, 0, 2, 7])).is_none());
        assert!(addresses.enter(IpAddr::from([192, 0, 2, 8])).is_some());
        drop(place);
        assert!(addresses.open.lock().expect("not poisoned").is_empty(), "an address without connections is forgotten");
        assert!(addresses.enter(IpAddr::from([192, 0, 2, 7])).is_some());
    }

    #[test]
    fn only_failures_of_the_client_are_passed_over_at_once() {
        for (errno, expect) in [
            (rustix::io::Errno::CONNABORTED, true),
            (rustix::io::Errno::MFILE, false),
            (rustix::io::Errno::NFILE, false),
            (rustix::io::Errno::NOBUFS, false),
        ] {
            assert_eq!(is_of_the_client(&io::Error::from(errno)), expect, "{errno}");
        }
    }
}
