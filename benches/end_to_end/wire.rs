//! The bare means: hyper's client on one connection each, and nothing else.
//!
//! Never a pool, never a retry.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Length of every payload.
const PAYLOAD_LEN: usize = 600;

/// One connection.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr) -> Wire {
        let stream = TcpStream::connect(address).await.expect("the listener is there");
        stream.set_nodelay(true).expect("it is a TCP socket");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a fresh connection");
        tokio::spawn(connection);
        Wire { sender, host: address.to_string() }
    }

    /// Posts a body; the status and the body of the answer.
    pub(crate) async fn post(&mut self, path: &str, kind: &str, key: &str, body: Bytes) -> (StatusCode, Bytes) {
        self.send("POST", path, kind, key, body).await
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        key: &str,
        body: Bytes,
    ) -> (StatusCode, Bytes) {
        let request =
            Request::builder().method(method).uri(path).header("host", &self.host).header("content-type", kind);
        let request = if key.is_empty() { request } else { request.header("authorization", format!("Bearer {key}")) };
        let request = request.body(Full::new(body)).expect("a legal request");
        self.sender.ready().await.expect("the connection is kept");
        let answer = self.sender.send_request(request).await.expect("every request is answered");
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("whole").to_bytes())
    }
}

/// A payload of 600 bytes that begins with its number.
pub(crate) fn payload(number: u64) -> String {
    let head = format!(r#"{{"n":{number},"pad":""#);
    format!("{head}{}\"}}", "x".repeat(PAYLOAD_LEN - head.len() - 2))
}

/// Requests a second that so many connections make, each one after the other.
pub(crate) async fn post_for(address: SocketAddr, connections: usize, time: Duration) -> f64 {
    let begun = Instant::now();
    let mut posting = JoinSet::new();
    for _ in 0..connections {
        posting.spawn(async move {
            let mut wire = Wire::open(address).await;
            let body = Bytes::from(payload(0));
            let mut count = 0u64;
            while begun.elapsed() < time {
                let (status, _) = wire.post("/", "application/json", "", body.clone()).await;
                assert_eq!(status, StatusCode::OK);
                count += 1;
            }
            count
        });
    }
    let total: u64 = posting.join_all().await.into_iter().sum();
    total as f64 / begun.elapsed().as_secs_f64()
}
