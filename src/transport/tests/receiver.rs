//! A receiver whose every byte is written down by the test.
//!
//! Never understands more HTTP than it takes to read one request.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;

pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A listener on loopback; each connection runs the script in a thread of its own.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Up to the empty line.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// The value of a header, its name in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

pub(super) trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// The receiver's end of one connection.
pub(super) struct Peer {
    socket: TcpStream,
    wire: Box<dyn Wire>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    /// Runs `script` on every connection.
    pub(super) fn start(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Receiver {
        Receiver::listen(None, script)
    }

    /// The same behind TLS; the script sees what is inside.
    pub(super) fn start_tls(config: ServerConfig, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Receiver {
        Receiver::listen(Some(Arc::new(config)), script)
    }

    /// Answers every request with these bytes.
    pub(super) fn answering(answer: impl Into<Vec<u8>>) -> Receiver {
        let answer = answer.into();
        Receiver::start(move |peer| peer.serve(&answer))
    }

    fn listen(tls: Option<Arc<ServerConfig>>, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver =
            Receiver { address: listener.local_addr().unwrap(), accepted: Arc::default(), requests: Arc::default() };
        let (accepted, requests) = (Arc::clone(&receiver.accepted), Arc::clone(&receiver.requests));
        let script = Arc::new(script);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.set_write_timeout(Some(PATIENCE)).unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let (script, tls, requests) = (Arc::clone(&script), tls.clone(), Arc::clone(&requests));
                thread::spawn(move || {
                    let inner = socket.try_clone().unwrap();
                    let wire: Box<dyn Wire> = match tls {
                        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).unwrap(), inner)),
                        None => Box::new(inner),
                    };
                    script(&mut Peer { socket, wire, requests });
                });
            }
        });
        receiver
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Connections accepted so far.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Peer {
    /// The next request; `None` where the connection ended first.
    pub(super) fn read_request(&mut self) -> Option<Request> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.read_byte()?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut request = Request { head, body: Vec::new() };
        let len = request.header("content-length").unwrap().parse().unwrap();
        request.body = vec![0; len];
        self.wire.read_exact(&mut request.body).ok()?;
        self.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    pub(super) fn read_byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.wire.read(&mut byte) {
            Ok(1) => Some(byte[0]),
            _ => None,
        }
    }

    /// Whether the bytes could be written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        self.wire.write_all(bytes).and_then(|()| self.wire.flush()).is_ok()
    }

    /// Answers every request until the connection ends.
    pub(super) fn serve(&mut self, answer: &[u8]) {
        while self.read_request().is_some() {
            if !self.write(answer) {
                return;
            }
        }
    }

    /// Reads one request, answers, and waits until the other side has closed.
    pub(super) fn answer_once(&mut self, answer: &[u8]) {
        self.read_request();
        self.write(answer);
        self.wait_for_close();
    }

    pub(super) fn wait_for_close(&mut self) {
        while self.read_byte().is_some() {}
    }

    /// Closes both ways, whatever the script does next.
    pub(super) fn close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    pub(super) fn half_close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}
