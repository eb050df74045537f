//! A receiver on bare hyper that answers 200 and notes when which event arrived.
//!
//! Never reads more of a body than the number that stands at its beginning.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    arrivals: Arc<Arrivals>,
}

#[derive(Default)]
struct Arrivals {
    count: AtomicUsize,
    times: Mutex<Vec<(u64, Instant)>>,
}

impl Receiver {
    pub(crate) async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let arrivals = Arc::new(Arrivals::default());
        tokio::spawn(accept(listener, Arc::clone(&arrivals)));
        Receiver { address, arrivals }
    }

    pub(crate) fn count(&self) -> usize {
        self.arrivals.count.load(Ordering::Relaxed)
    }

    /// What arrived since the last call: numbers and times.
    pub(crate) fn take(&self) -> Vec<(u64, Instant)> {
        self.arrivals.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut self.arrivals.times.lock().expect("no panic while held"))
    }
}

async fn accept(listener: TcpListener, arrivals: Arc<Arrivals>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let arrivals = Arc::clone(&arrivals);
        // A connection that breaks is the client's to notice.
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let service = service_fn(move |request| note(Arc::clone(&arrivals), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn note(arrivals: Arc<Arrivals>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Ok(body) = request.into_body().collect().await.map(http_body_util::Collected::to_bytes) {
        let number = number(&body);
        arrivals.times.lock().expect("no panic while held").push((number, Instant::now()));
        arrivals.count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(Response::new(Full::new(Bytes::new())))
}

/// Of `{"n":NUMBER,…`.
fn number(body: &[u8]) -> u64 {
    let digits = body.iter().skip(5).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
