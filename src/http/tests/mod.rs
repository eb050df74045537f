//! The servers' floor against real sockets: a small set of routes, and a client that speaks bytes.
//!
//! Never sleeps to wait for something: it waits for the thing.

mod behaviour;
mod exhaustion;
mod hostile;
mod lifetime;
mod secure;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Drained, Fields, Hooks, Limits, Problem, Request, Router, Routes, Server, Tls, TlsError, response};

/// Longer than anything here takes, shorter than patience.
const LIVENESS: Duration = Duration::from_secs(20);
const BODY_MAX: usize = 256 * 1024;

/// What the handlers share.
#[derive(Default)]
struct Stage {
    /// Told when `/slow` has begun.
    entered: Notify,
    /// `/slow` answers when told.
    release: Notify,
}

fn routes(stage: &Arc<Stage>) -> Routes {
    Router::new(Arc::clone(stage))
        .on(Method::GET, "/hello/{name}", async |_, r: Request| {
            Ok(response::json(StatusCode::OK, &format!("hello {} {:?}", r.param("name"), r.query)))
        })
        .on(Method::POST, "/echo", async |_, mut r: Request| {
            Ok(response::bytes(StatusCode::OK, "application/octet-stream", r.read_body(BODY_MAX).await?))
        })
        .on(Method::POST, "/json", async |_, mut r: Request| {
            let body = r.read_json(BODY_MAX).await?;
            let mut fields = Fields::parse(&body)?;
            let name = fields.required_str("name");
            fields.finish()?;
            Ok(response::json(StatusCode::CREATED, &name))
        })
        .on(Method::POST, "/ignore", async |_, _| Ok(response::empty()))
        .on(Method::GET, "/key", async |_, r: Request| r.bearer().map(|key| response::json(StatusCode::OK, &key.len())))
        .on(Method::GET, "/busy", async |_, _| {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Later.").retry_after_s(7))
        })
        .on(Method::GET, "/panic", async |_, _| panic!("a handler's bug"))
        .on(Method::GET, "/slow", async |stage: Arc<Stage>, _| {
            stage.entered.notify_one();
            stage.release.notified().await;
            Ok(response::json(StatusCode::OK, &"done"))
        })
        .on(Method::GET, "/large", async |_, _| Ok(response::ndjson(vec![b'x'; 32 * 1024 * 1024].into())))
        .into_routes()
}

/// A running server.
struct Rig {
    address: SocketAddr,
    stage: Arc<Stage>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Drained>,
}

impl Rig {
    async fn start(limits: Limits) -> Rig {
        Rig::start_with(limits, None, Hooks::default()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test drains what it starts")]
    async fn start_with(limits: Limits, tls: Option<Tls>, hooks: Hooks) -> Rig {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let stage = Arc::new(Stage::default());
        let server = Server { name: "test", routes: routes(&stage), tls, limits, hooks };
        let served = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        Rig { address, stage, stop, served }
    }

    async fn connect(&self) -> Client {
        Client(connect(self.address).await)
    }

    /// One connection: writes `request`, reads to the end.
    async fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.send(request).await;
        client.rest().await
    }

    async fn stop(self) -> Drained {
        let _ = self.stop.send(());
        timeout(LIVENESS, self.served).await.expect("the server ends").expect("the server does not panic")
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is the client")]
async fn connect(address: SocketAddr) -> TcpStream {
    timeout(LIVENESS, TcpStream::connect(address)).await.expect("in time").expect("the port is open")
}

/// A client that speaks bytes.
struct Client(TcpStream);

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The server may hang up while we write: what it answered is what counts.
        let _ = timeout(LIVENESS, self.0.write_all(bytes.as_ref())).await.expect("written in time");
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = timeout(LIVENESS, self.0.read_to_end(&mut bytes)).await.expect("the server ends the connection");
        String::from_utf8(bytes).expect("answers are UTF-8 here")
    }

    /// One answer with a `content-length`, or without a body.
    async fn answer(&mut self) -> String {
        let mut text = String::new();
        while !is_whole(&text) {
            let mut bytes = [0; 4096];
            let read = timeout(LIVENESS, self.0.read(&mut bytes)).await.expect("an answer in time").expect("an answer");
            assert_ne!(read, 0, "the server hung up after {text:?}");
            text.push_str(std::str::from_utf8(&bytes[..read]).expect("UTF-8"));
        }
        text
    }
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    body.len() >= header(head, "content-length").map_or(0, |value| value.parse().expect("a number"))
}

/// A header's value in an answer.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap_or("");
    head.lines().filter_map(|line| line.split_once(": ")).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The statuses of the answers in `text`, in order.
fn statuses(text: &str) -> Vec<u16> {
    let codes = text.split("HTTP/1.1 ").skip(1).filter_map(|part| part.get(..3)?.parse().ok());
    codes.filter(|code| *code != 100).collect()
}

/// The body of the only answer in `text`, as JSON.
fn body_json(text: &str) -> serde_json::Value {
    let body = text.split_once("\r\n\r\n").expect("an answer").1;
    serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body:?}"))
}
