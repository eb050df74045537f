//! The way out: every outgoing connection of the product is opened here, to an address that was vetted here.
//!
//! Never connects to a name, never takes one address of an answer that holds a forbidden one, never goes
//! through a proxy.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use url::Host;

use super::OwnFault;
use super::certificate;
use super::client::{Progress, Stage, micros};
use super::resolver::{LookupFault, Resolver};
use super::tls;
use crate::clock::Clock;
use crate::model::ErrorCode;
use crate::policy::egress::{self, LOOPBACK, Rules, Scheme, Target};

/// The most addresses that are tried for one attempt.
const ADDRESSES_MAX: usize = 4;
/// How long an address may stay silent before the next one is tried beside it (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Why there is no connection: for something of the receiver's, which is an outcome, or of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DialFault {
    Theirs(ErrorCode),
    Ours(OwnFault),
}

impl From<ErrorCode> for DialFault {
    fn from(error: ErrorCode) -> DialFault {
        DialFault::Theirs(error)
    }
}

/// Bytes to and from a receiver, in the clear or through TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Time for each part of opening a connection; the attempt's deadline stands above them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budgets {
    pub(super) dns: Duration,
    pub(super) connect: Duration,
    pub(super) tls: Duration,
}

/// Opens connections.
pub(super) struct Dialer {
    pub(super) rules: Rules,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) tls: TlsConnector,
    pub(super) budgets: Budgets,
    pub(super) clock: Arc<dyn Clock>,
}

impl Dialer {
    /// Opens a connection to `target`: one look-up, every address vetted, only vetted addresses dialled.
    pub(super) async fn dial(&self, target: &Target, progress: &mut Progress) -> Result<Box<dyn Io>, DialFault> {
        let addresses = self.resolve(target, progress).await?;
        if addresses.iter().any(|address| !egress::vet(*address, &self.rules)) {
            return Err(ErrorCode::BlockedDestination.into());
        }
        let stream = self.connect(&order(&addresses, target.port), progress).await?;
        let peer = stream.peer_addr().map_err(|error| connect_fault(&error))?.ip();
        if !addresses.contains(&peer) || !egress::vet(peer, &self.rules) {
            return Err(ErrorCode::BlockedDestination.into());
        }
        match target.scheme {
            Scheme::Http => Ok(Box::new(stream)),
            Scheme::Https => Ok(self.secure(stream, target, progress).await?),
        }
    }

    async fn resolve(&self, target: &Target, progress: &mut Progress) -> Result<Vec<IpAddr>, DialFault> {
        let name = match &target.host {
            Host::Ipv4(address) => return Ok(vec![IpAddr::V4(*address)]),
            Host::Ipv6(address) => return Ok(vec![IpAddr::V6(*address)]),
            Host::Domain(_) if target.is_localhost() => {
                return Ok(LOOPBACK.into_iter().filter(|address| egress::vet(*address, &self.rules)).collect());
            }
            Host::Domain(name) => name,
        };
        progress.stage = Stage::Dns;
        let begun = self.clock.instant();
        let answer = timeout(self.budgets.dns, self.resolver.lookup(name)).await;
        progress.phases.dns_us = Some(micros(begun, self.clock.instant()));
        match answer {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_) | Err(LookupFault::NoAddress)) => Err(ErrorCode::Dns.into()),
            // Nothing was said of this name. If nothing is said of the root either, it is not the name.
            Ok(Err(LookupFault::NoAnswer)) | Err(_) => match timeout(self.budgets.dns, self.resolver.answers()).await {
                Ok(true) => Err(ErrorCode::Dns.into()),
                Ok(false) | Err(_) => Err(DialFault::Ours(OwnFault::NameServers)),
            },
        }
    }

    /// A receiver that has IPv6 addresses only is not reached from a host without IPv6. That is not for the
    /// host to mend within minutes, so it counts as refused.
    async fn connect(&self, addresses: &[SocketAddr], progress: &mut Progress) -> Result<TcpStream, DialFault> {
        progress.stage = Stage::Connect;
        let begun = self.clock.instant();
        let connected = timeout(self.budgets.connect, race(addresses)).await;
        progress.phases.connect_us = Some(micros(begun, self.clock.instant()));
        let six_only = addresses.iter().all(SocketAddr::is_ipv6);
        let stream = connected.map_err(|_| ErrorCode::ConnectTimeout)?.map_err(|fault| match fault {
            DialFault::Ours(_) if six_only => ErrorCode::ConnectRefused.into(),
            fault => fault,
        })?;
        stream.set_nodelay(true).map_err(|error| connect_fault(&error))?;
        Ok(stream)
    }

    async fn secure(
        &self,
        stream: TcpStream,
        target: &Target,
        progress: &mut Progress,
    ) -> Result<Box<dyn Io>, ErrorCode> {
        progress.stage = Stage::Tls;
        let begun = self.clock.instant();
        let name = match &target.host {
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
            Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|_| ErrorCode::TlsName)?,
        };
        let shaken = timeout(self.budgets.tls, self.tls.connect(name, stream)).await;
        progress.phases.tls_us = Some(micros(begun, self.clock.instant()));
        match shaken {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                progress.certificate_not_after = shown.and_then(|certificate| certificate::not_after(certificate));
                Ok(Box::new(stream))
            }
            Ok(Err(error)) => Err(tls::error_code(&error)),
            Err(_) => Err(ErrorCode::ConnectTimeout),
        }
    }
}

/// The addresses to try: IPv6 and IPv4 by turns, each family in the order of the answer (RFC 8305, 4).
fn order(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let (mut v6, mut v4): (VecDeque<IpAddr>, VecDeque<IpAddr>) = addresses.iter().copied().partition(IpAddr::is_ipv6);
    let mut ordered = Vec::with_capacity(ADDRESSES_MAX);
    while ordered.len() < ADDRESSES_MAX && !(v6.is_empty() && v4.is_empty()) {
        ordered.extend(v6.pop_front().into_iter().chain(v4.pop_front()).map(|ip| SocketAddr::new(ip, port)));
    }
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Connects to the first address that answers. The next one starts when one fails or stays silent; the last
/// failure is the failure of all. One of the receiver's counts before one of our own: it may be this host that has no
/// route to one family of addresses, and the receiver that refuses at the other.
async fn race(addresses: &[SocketAddr]) -> Result<TcpStream, DialFault> {
    let mut waiting = addresses.iter();
    let mut started: Vec<Connecting> = Vec::with_capacity(addresses.len());
    let mut last = DialFault::Theirs(ErrorCode::ConnectRefused);
    let mut any_of_theirs = false;
    loop {
        match waiting.next() {
            Some(address) => started.push(Box::pin(connect(*address))),
            None if started.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            biased;
            connected = first(&mut started) => match connected.map_err(|error| connect_fault(&error)) {
                Ok(stream) => return Ok(stream),
                Err(DialFault::Ours(_)) if any_of_theirs => {}
                Err(fault) => {
                    any_of_theirs = matches!(fault, DialFault::Theirs(_));
                    last = fault;
                }
            },
            () = sleep(STAGGER), if !waiting.as_slice().is_empty() => {}
        }
    }
}

/// The result of whichever ends first, which is then taken out.
async fn first(started: &mut Vec<Connecting>) -> io::Result<TcpStream> {
    poll_fn(|cx| {
        for at in 0..started.len() {
            if let Poll::Ready(result) = started[at].as_mut().poll(cx) {
                drop(started.swap_remove(at));
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "the one place that connects; `dial` has vetted the address")]
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// A host that cannot be reached refuses as surely as one that answers so. No network at all, no permission
/// and no means are ours: the merchant's attempts are not for our faults.
fn connect_fault(error: &io::Error) -> DialFault {
    match error.kind() {
        // The last one: an address that nobody can have.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::InvalidInput => {
            ErrorCode::ConnectRefused.into()
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected => {
            ErrorCode::ConnectReset.into()
        }
        io::ErrorKind::TimedOut => ErrorCode::ConnectTimeout.into(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown | io::ErrorKind::PermissionDenied => {
            DialFault::Ours(OwnFault::NoRoute)
        }
        kind => {
            tracing::warn!(?kind, "this host could not open a connection");
            DialFault::Ours(OwnFault::NoSockets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_receiver_does_is_an_outcome_and_what_this_host_lacks_is_not() {
        let check = |kind: io::ErrorKind, expect| assert_eq!(connect_fault(&kind.into()), expect, "{kind:?}");
        check(io::ErrorKind::ConnectionRefused, DialFault::Theirs(ErrorCode::ConnectRefused));
        check(io::ErrorKind::HostUnreachable, DialFault::Theirs(ErrorCode::ConnectRefused));
        check(io::ErrorKind::ConnectionReset, DialFault::Theirs(ErrorCode::ConnectReset));
        check(io::ErrorKind::TimedOut, DialFault::Theirs(ErrorCode::ConnectTimeout));
        check(io::ErrorKind::NetworkUnreachable, DialFault::Ours(OwnFault::NoRoute));
        check(io::ErrorKind::PermissionDenied, DialFault::Ours(OwnFault::NoRoute));
        check(io::ErrorKind::AddrNotAvailable, DialFault::Ours(OwnFault::NoSockets));
        const EMFILE: i32 = 24;
        assert_eq!(connect_fault(&io::Error::from_raw_os_error(EMFILE)), DialFault::Ours(OwnFault::NoSockets));
    }

    #[test]
    fn families_take_turns_and_four_addresses_are_enough() {
        let check = |addresses: &[&str], expect: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let ordered: Vec<String> = order(&addresses, 443).iter().map(|address| address.ip().to_string()).collect();
            assert_eq!(ordered, expect);
        };
        check(&["1.1.1.1", "2.2.2.2", "2000::1", "2000::2"], &["2000::1", "1.1.1.1", "2000::2", "2.2.2.2"]);
        check(&["1.1.1.1"], &["1.1.1.1"]);
        check(&["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4", "1.0.0.5"], &["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"]);
        check(&["2000::1", "2000::2", "1.1.1.1"], &["2000::1", "1.1.1.1", "2000::2"]);
        check(&[], &[]);
    }
}
