//! A merchant's receiver that writes down every byte and answers as it is told.
//!
//! Never understands more HTTP than it takes to read one request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// When its last byte was here.
    pub(crate) at: Instant,
    /// The request line and the header lines.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// 0 for the first request of the receiver.
    pub(crate) number: usize,
    /// 0 for the first connection of the receiver.
    pub(crate) connection: usize,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The event's id.
    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id").expect("every delivery has an id")
    }
}

/// How a request is answered.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// This status, no body.
    Status(u16),
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, and the connection is closed.
    Last(Vec<u8>),
    /// Each piece after its pause, for as long as the other side listens.
    Drip(Vec<(Duration, Vec<u8>)>),
    /// Nothing; waits until the other side hangs up.
    Never,
    /// The connection is closed.
    Close,
}

impl Reply {
    /// A status with headers and a body.
    pub(crate) fn full(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} -\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
        Reply::Bytes([head.as_bytes(), body].concat())
    }
}

type Script = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A socket, or what TLS makes of it.
trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A listener on loopback.
pub(crate) struct Receiver {
    address: SocketAddr,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Inbox {
    received: Mutex<Vec<Received>>,
    /// How long after a request that was never answered the other side hung up.
    hung_up: Mutex<Vec<Duration>>,
    changed: Condvar,
}

impl Receiver {
    /// Answers 200 to everything.
    pub(crate) fn start() -> Receiver {
        Receiver::scripted(|_| Reply::Status(200))
    }

    /// Answers each request as `script` says.
    pub(crate) fn scripted(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Receiver {
        Receiver::listen(None, Arc::new(script))
    }

    /// Answers with a status that can be changed, and that to begin with.
    pub(crate) fn moody(status: u16) -> (Receiver, Arc<AtomicU16>) {
        let says = Arc::new(AtomicU16::new(status));
        let receiver = Receiver::scripted({
            let says = Arc::clone(&says);
            move |_| Reply::Status(says.load(Ordering::Relaxed))
        });
        (receiver, says)
    }

    /// Answers 200 to everything that comes over TLS.
    pub(crate) fn start_tls(config: ServerConfig) -> Receiver {
        Receiver::listen(Some(Arc::new(config)), Arc::new(|_| Reply::Status(200)))
    }

    fn listen(tls: Option<Arc<ServerConfig>>, script: Script) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let inbox = Arc::new(Inbox::default());
        let shared = Arc::clone(&inbox);
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                let (script, inbox, tls) = (Arc::clone(&script), Arc::clone(&shared), tls.clone());
                thread::spawn(move || serve(wire(stream, tls), connection, &script, &inbox));
            }
        });
        Receiver { address, inbox }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How much came so far.
    pub(crate) fn count(&self) -> usize {
        self.inbox.received.lock().expect("no panic while held").len()
    }

    /// Waits until at least `count` requests are here.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Received> {
        let received = self.inbox.received.lock().expect("no panic while held");
        let (received, late) = self
            .inbox
            .changed
            .wait_timeout_while(received, PATIENCE, |r| r.len() < count)
            .expect("no panic while held");
        assert!(!late.timed_out(), "{count} requests were expected, {} came", received.len());
        received.clone()
    }

    /// Waits for the first request.
    #[track_caller]
    pub(crate) fn first(&self) -> Received {
        self.nth(0)
    }

    /// Waits for a request by its number.
    #[track_caller]
    pub(crate) fn nth(&self, number: usize) -> Received {
        let received = self.inbox.received.lock().expect("no panic while held");
        let (received, _) = self
            .inbox
            .changed
            .wait_timeout_while(received, PATIENCE, |r| r.len() <= number)
            .expect("no panic while held");
        received.get(number).unwrap_or_else(|| panic!("request {number} did not come")).clone()
    }

    /// Waits until a request that is never answered is given up: how long that took.
    #[track_caller]
    pub(crate) fn wait_for_hang_up(&self) -> Duration {
        let hung_up = self.inbox.hung_up.lock().expect("no panic while held");
        let (hung_up, _) =
            self.inbox.changed.wait_timeout_while(hung_up, PATIENCE, |h| h.is_empty()).expect("no panic while held");
        *hung_up.first().expect("the other side hangs up in time")
    }
}

fn wire(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Box<dyn Wire> {
    // A connection that breaks is the other side's doing, and the test sees it there.
    let _ = stream.set_nodelay(true);
    match tls {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).expect("a whole config"), stream)),
        None => Box::new(stream),
    }
}

fn serve(wire: Box<dyn Wire>, connection: usize, script: &Script, inbox: &Inbox) {
    let mut wire = BufReader::new(wire);
    while let Ok((head, body)) = read(&mut wire) {
        let received = {
            let mut all = inbox.received.lock().expect("no panic while held");
            let received = Received { at: Instant::now(), head, body, number: all.len(), connection };
            all.push(received.clone());
            inbox.changed.notify_all();
            received
        };
        if !answer(&mut wire, script(&received), received.at, inbox) {
            return;
        }
    }
}

/// False where the connection is over.
fn answer(wire: &mut BufReader<Box<dyn Wire>>, reply: Reply, begun: Instant, inbox: &Inbox) -> bool {
    let stream = wire.get_mut();
    match reply {
        Reply::Status(status) => {
            let text = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_ok()
        }
        Reply::Bytes(bytes) => stream.write_all(&bytes).is_ok(),
        Reply::Last(bytes) => {
            // Whoever is gone already does not mind.
            let _ = stream.write_all(&bytes);
            false
        }
        Reply::Drip(pieces) => pieces.into_iter().all(|(pause, piece)| {
            thread::sleep(pause);
            stream.write_all(&piece).is_ok()
        }),
        Reply::Never => {
            let mut rest = [0; 1024];
            while stream.read(&mut rest).is_ok_and(|count| count > 0) {}
            inbox.hung_up.lock().expect("no panic while held").push(begun.elapsed());
            inbox.changed.notify_all();
            false
        }
        Reply::Close => false,
    }
}

fn read(connection: &mut BufReader<Box<dyn Wire>>) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if connection.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body)?;
    Ok((head, body))
}
