//! The merchants' receivers: one listener on which each merchant has a path and a manner.
//!
//! Never forgets a request: what arrived is in the ledger before it is answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::ledger::{Arrival, Ledger, digest};

/// How a merchant's receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// 200 at once.
    Prompt,
    /// Often 503, or the connection breaks.
    Flapping,
    /// 200, late.
    Slow,
    /// 500, always.
    Failing,
    /// 200 once the harness says so.
    Holding,
}

impl Manner {
    /// Whether an attempt may fail.
    pub(crate) fn fails(self) -> bool {
        matches!(self, Manner::Flapping | Manner::Failing)
    }
}

pub(crate) struct Receivers {
    address: SocketAddr,
    released: watch::Sender<bool>,
    held: Arc<watch::Sender<usize>>,
    _runtime: tokio::runtime::Runtime,
}

struct Host {
    manners: Vec<Manner>,
    ledger: Arc<Ledger>,
    dice: Mutex<Dice>,
    released: watch::Receiver<bool>,
    held: Arc<watch::Sender<usize>>,
}

impl Receivers {
    /// Receivers for merchants with these manners, by their place.
    pub(crate) fn open(manners: Vec<Manner>, ledger: Arc<Ledger>, dice: Dice) -> Receivers {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (released, is_released) = watch::channel(false);
        let held = Arc::new(watch::Sender::new(0));
        let host = Host { manners, ledger, dice: Mutex::new(dice), released: is_released, held: Arc::clone(&held) };
        runtime.spawn(accept(listener, Arc::new(host)));
        Receivers { address, released, held, _runtime: runtime }
    }

    /// Where merchant number `merchant` receives; `turn` makes the URL differ from earlier ones.
    pub(crate) fn url(&self, merchant: usize, turn: u64) -> String {
        format!("http://{}/{merchant}/{turn}", self.address)
    }

    /// Requests that wait for `release`.
    pub(crate) fn held(&self) -> usize {
        *self.held.borrow()
    }

    /// Lets those that hold their answer give it.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }
}

async fn accept(listener: TcpListener, host: Arc<Host>) {
    loop {
        // Too many open files, for one: the next try may go better.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let host = Arc::clone(&host);
        let service = service_fn(move |request| answer(Arc::clone(&host), request));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A connection ends with an error where the appliance was killed or the manner breaks it.
        tokio::spawn(async move { drop(connection.await) });
    }
}

/// The connection breaks where this is the answer.
#[derive(Debug, thiserror::Error)]
#[error("the receiver breaks the connection")]
struct Broken;

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Broken {
        match never {}
    }
}

async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Broken> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let (id, sequence) = (text("webhook-id"), text("x-webhook-sequence"));
    let merchant: usize = request.uri().path().split('/').nth(1).and_then(|n| n.parse().ok()).expect("a path of ours");
    // A request that was cut off by a kill has not arrived.
    let body = request.into_body().collect().await.map_err(|_| Broken)?.to_bytes();
    let manner = host.manners[merchant];
    let luck = host.dice.lock().expect("no panic while held").within(0..100);
    let status = match manner {
        Manner::Flapping if luck < 25 => StatusCode::SERVICE_UNAVAILABLE,
        Manner::Failing => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    };
    let is_broken = manner == Manner::Flapping && luck > 94;
    host.ledger.arrived(Arrival {
        id,
        sequence: sequence.parse().unwrap_or(0),
        merchant,
        digest: digest(&body),
        is_taken: status.is_success() && !is_broken,
        moment: 0,
    });
    match manner {
        Manner::Slow => tokio::time::sleep(Duration::from_millis(20 + luck)).await,
        Manner::Holding => {
            host.held.send_modify(|held| *held += 1);
            // Ends only with the scene, where nobody cares any more.
            let _ = host.released.clone().wait_for(|released| *released).await;
        }
        _ => {}
    }
    if is_broken {
        return Err(Broken);
    }
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}
