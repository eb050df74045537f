//! Name servers that lie: private answers, mixed answers, answers that change.
//!
//! Never asks a name server of the machine it runs on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{self, AtomicBool};
use std::thread;

use super::receiver::{OK, Receiver};
use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;

/// What the stub says to a question.
#[derive(Clone)]
enum Say {
    Addresses(Vec<IpAddr>),
    Code(u8),
    Nothing,
    /// This of the name, and that the root is there.
    OfTheName(Box<Say>),
}

/// A name server on loopback.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
}

impl NameServer {
    /// Answers the n-th look-up (an A and an AAAA question) with `answer(n)`, its TTL `ttl_s`.
    fn start(ttl_s: u32, answer: impl Fn(usize) -> Say + Send + 'static) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let asked = Arc::new(Mutex::new(Vec::<(String, u16)>::new()));
        let server = NameServer { address: socket.local_addr().unwrap(), asked: Arc::clone(&asked) };
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut packet) {
                let (name, kind, question_end) = question(&packet[..len]);
                let is_root = name.is_empty();
                let nth = {
                    let mut asked = asked.lock().unwrap();
                    asked.push((name, kind));
                    asked.iter().filter(|(_, other)| *other == kind).count() - 1
                };
                let say = match answer(nth) {
                    Say::OfTheName(_) if is_root => Say::Code(0),
                    Say::OfTheName(say) => *say,
                    say => say,
                };
                if let Some(reply) = reply(&packet[..question_end], kind, ttl_s, &say) {
                    socket.send_to(&reply, from).unwrap();
                }
            }
        });
        server
    }

    /// Always these addresses.
    fn answering(addresses: &[&str]) -> NameServer {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        NameServer::start(0, move |_| Say::Addresses(addresses.clone()))
    }

    fn transport(&self) -> HyperTransport {
        let limits = Limits { dns_timeout_ms: 1_000, ..Limits::default() };
        HyperTransport::new(Settings { resolver: resolver(&[self.address]), ..settings_for_names(limits) }).unwrap()
    }

    /// Look-ups so far.
    fn lookups(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|(_, kind)| *kind == A).count()
    }
}

/// Names may stand before any port; addresses are as elsewhere.
fn settings_for_names(limits: Limits) -> Settings {
    Settings { rules: Rules { ports: vec![], ..open_rules() }, ..settings(limits) }
}

/// Name, type, and where the question ends (RFC 1035, 4.1.2).
fn question(packet: &[u8]) -> (String, u16, usize) {
    let mut at = 12;
    let mut name = String::new();
    while packet[at] != 0 {
        let len = usize::from(packet[at]);
        name.push_str(std::str::from_utf8(&packet[at + 1..=at + len]).unwrap());
        name.push('.');
        at += len + 1;
    }
    (name.to_lowercase(), u16::from_be_bytes([packet[at + 1], packet[at + 2]]), at + 5)
}

/// The question again with the answers of its type (RFC 1035, 4.1.3).
fn reply(question: &[u8], kind: u16, ttl_s: u32, say: &Say) -> Option<Vec<u8>> {
    let (code, addresses): (u8, &[IpAddr]) = match say {
        Say::Addresses(addresses) => (0, addresses),
        Say::Code(code) => (*code, &[]),
        Say::Nothing => return None,
        Say::OfTheName(_) => unreachable!("looked into before"),
    };
    let addresses: Vec<_> = addresses.iter().filter(|address| address.is_ipv6() == (kind == AAAA)).collect();
    let mut packet = question.to_vec();
    packet[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    packet[6..12].copy_from_slice(&[0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    for address in addresses {
        packet.extend([0xc0, 12]);
        packet.extend(kind.to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(ttl_s.to_be_bytes());
        let data = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        packet.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        packet.extend(data);
    }
    Some(packet)
}

fn at(name: &str, receiver: &Receiver) -> Parcel {
    parcel(endpoint(&format!("http://{name}:{}/hook", receiver.address.port())))
}

#[tokio::test]
async fn a_name_is_asked_for_as_it_stands_and_dialled_as_answered() {
    let receiver = Receiver::answering(OK);
    let server = NameServer::answering(&["127.0.0.1"]);
    let attempt = send(&server.transport(), at("hooks.example.com", &receiver)).await;
    assert_delivered(&attempt);
    assert!(attempt.phases.dns_us.is_some());
    let host = format!("hooks.example.com:{}", receiver.address.port());
    assert_eq!(receiver.requests()[0].header("host"), Some(&*host));
    let mut asked = server.asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked, [("hooks.example.com.".to_owned(), A), ("hooks.example.com.".to_owned(), AAAA)]);
}

#[tokio::test]
async fn one_forbidden_address_spoils_the_whole_answer() {
    let canary = Receiver::answering(OK);
    for addresses in [
        &["10.0.0.1"][..],
        &["169.254.169.254"],
        &["127.0.0.1", "10.0.0.1"],
        &["10.0.0.1", "127.0.0.1"],
        &["127.0.0.1", "::1"],
        &["127.0.0.1", "::ffff:127.0.0.1"],
        &["127.0.0.1", "64:ff9b::7f00:1"],
        &["127.0.0.1", "fd00:ec2::254"],
        &["127.0.0.1", "127.0.0.2"],
    ] {
        let server = NameServer::answering(addresses);
        let attempt = send(&server.transport(), at("hooks.example.com", &canary)).await;
        assert_failed(&attempt, ErrorCode::BlockedDestination);
        assert_eq!(attempt.phases.connect_us, None, "{addresses:?}: nothing was dialled");
    }
    assert_eq!(canary.accepted(), 0);
}

#[tokio::test]
async fn a_forbidden_address_at_the_end_of_a_long_answer_is_seen() {
    let canary = Receiver::answering(OK);
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST); 24];
    addresses.push("192.168.1.1".parse().unwrap());
    let server = NameServer::start(0, move |_| Say::Addresses(addresses.clone()));
    assert_failed(&send(&server.transport(), at("hooks.example.com", &canary)).await, ErrorCode::BlockedDestination);
    assert_eq!(canary.accepted(), 0);
}

#[tokio::test]
async fn an_answer_that_changes_is_judged_each_time_and_asked_once_per_connection() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let server = NameServer::start(0, |nth| {
        Say::Addresses(vec![if nth % 2 == 0 { Ipv4Addr::LOCALHOST.into() } else { "127.0.0.2".parse().unwrap() }])
    });
    let transport = server.transport();
    for turn in 0..6 {
        let attempt = send(&transport, at("hooks.example.com", &receiver)).await;
        if turn % 2 == 0 {
            assert_delivered(&attempt);
        } else {
            assert_failed(&attempt, ErrorCode::BlockedDestination);
        }
        assert_eq!(server.lookups(), turn + 1, "one look-up, one judgement, at most one connection");
    }
    assert_eq!(receiver.accepted(), 3);
}

#[tokio::test]
async fn a_name_that_turns_private_gets_no_new_connection() {
    let receiver = Receiver::answering(OK);
    let server = NameServer::start(0, |nth| {
        Say::Addresses(vec![if nth == 0 { Ipv4Addr::LOCALHOST.into() } else { "10.0.0.1".parse().unwrap() }])
    });
    let settings = Settings {
        resolver: resolver(&[server.address]),
        ..settings_for_names(Limits { uses_max: 2, ..Limits::default() })
    };
    let transport = HyperTransport::new(settings).unwrap();
    assert_delivered(&send(&transport, at("hooks.example.com", &receiver)).await);
    assert_delivered(&send(&transport, at("hooks.example.com", &receiver)).await);
    assert_failed(&send(&transport, at("hooks.example.com", &receiver)).await, ErrorCode::BlockedDestination);
    assert_eq!((receiver.accepted(), server.lookups()), (1, 2));
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    let canary = Receiver::answering(OK);
    let of_the_name = |say| Say::OfTheName(Box::new(say));
    for say in
        [Say::Code(3), Say::Code(5), Say::Addresses(vec![]), of_the_name(Say::Code(2)), of_the_name(Say::Nothing)]
    {
        let server = NameServer::start(0, move |_| say.clone());
        let attempt = send(&server.transport(), at("hooks.example.com", &canary)).await;
        assert_failed(&attempt, ErrorCode::Dns);
        assert!(attempt.duration_ms < 10_000 && attempt.sent.is_none());
    }
    assert_eq!(canary.accepted(), 0);
}

#[tokio::test]
async fn name_servers_that_cannot_even_tell_of_the_root_are_our_own_fault() {
    let canary = Receiver::answering(OK);
    for say in [Say::Nothing, Say::Code(2)] {
        let server = NameServer::start(0, move |_| say.clone());
        assert_own_fault(&server.transport(), &canary).await;
    }
    assert_eq!(canary.accepted(), 0);
}

#[tokio::test]
async fn name_servers_that_told_of_the_root_a_moment_ago_may_have_fallen_silent() {
    let canary = Receiver::answering(OK);
    let is_silent = Arc::new(AtomicBool::new(false));
    let server = NameServer::start(60, {
        let is_silent = Arc::clone(&is_silent);
        move |_| {
            if is_silent.load(atomic::Ordering::SeqCst) { Say::Nothing } else { Say::OfTheName(Box::new(Say::Nothing)) }
        }
    });
    let transport = server.transport();
    assert_failed(&send(&transport, at("hooks.example.com", &canary)).await, ErrorCode::Dns);
    is_silent.store(true, atomic::Ordering::SeqCst);
    assert_own_fault(&transport, &canary).await;
}

async fn assert_own_fault(transport: &HyperTransport, receiver: &Receiver) {
    let made = tokio::time::timeout(PATIENCE, transport.send(at("hooks.example.com", receiver))).await;
    assert_eq!(made.expect("an attempt ends by itself").unwrap_err(), OwnFault::NameServers);
}

#[tokio::test]
async fn addresses_and_localhost_are_never_looked_up() {
    let receiver = Receiver::answering(OK);
    let server = NameServer::answering(&["10.0.0.1"]);
    for host in ["127.0.0.1", "localhost", "LOCALHOST"] {
        assert_delivered(&send(&server.transport(), at(host, &receiver)).await);
    }
    assert_eq!(server.lookups(), 0);
}

#[tokio::test]
async fn answers_are_kept_for_their_time() {
    let receiver = Receiver::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let server = NameServer::start(3_600, |_| Say::Addresses(vec![Ipv4Addr::LOCALHOST.into()]));
    let resolver = DnsResolver::with_servers(&[server.address], ResolverLimits::default()).unwrap();
    let settings = Settings { resolver: Arc::new(resolver), ..settings_for_names(Limits::default()) };
    let transport = HyperTransport::new(settings).unwrap();
    for _ in 0..3 {
        assert_delivered(&send(&transport, at("hooks.example.com", &receiver)).await);
    }
    assert_eq!((receiver.accepted(), server.lookups()), (3, 1));
}
