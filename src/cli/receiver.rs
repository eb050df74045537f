//! The receiver that comes with `serve --dev`: takes deliveries, checks their signature, shows them.
//!
//! Never answers anything but 200 to a delivery: it is there to see events arrive.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::print;
use crate::engine::Engine;
use crate::http::{HeaderMap, Hooks, Limits, Method, Problem, Request, Response, Router, Server, StatusCode, response};
use crate::model::MerchantId;
use crate::policy::signature;

/// Where deliveries arrive.
pub(super) const PATH: &str = "/webhooks";

/// Larger than any event.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A listener on loopback that plays the merchant.
pub(super) struct Receiver {
    listener: TcpListener,
    address: SocketAddr,
}

struct Showing {
    engine: Arc<Engine>,
    merchant: MerchantId,
    /// Whether standard output belongs to a script.
    quiet: bool,
}

impl Receiver {
    /// Takes the port of the last run where it is still free, else any.
    pub(super) async fn bind(before: Option<SocketAddr>) -> std::io::Result<Receiver> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = match TcpListener::bind(before.unwrap_or(any)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(any).await?,
        };
        let address = listener.local_addr()?;
        Ok(Receiver { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    pub(super) async fn run(
        self,
        engine: Arc<Engine>,
        merchant: MerchantId,
        quiet: bool,
        shutdown: impl Future<Output = ()>,
    ) {
        let showing = Arc::new(Showing { engine, merchant, quiet });
        let routes = Router::new(showing).on(Method::POST, PATH, receive).into_routes();
        let limits = Limits { connections_per_ip_max: Limits::default().connections_max, ..Limits::default() };
        let server = Server { name: "receiver", routes, tls: None, limits, hooks: Hooks::default() };
        server.serve(self.listener, shutdown).await;
    }
}

async fn receive(showing: Arc<Showing>, mut request: Request) -> Result<Response, Problem> {
    let body = request.read_body(BODY_BYTES_MAX).await?;
    let text = |name: &str| header(&request.headers, name).unwrap_or("-").to_owned();
    let (kind, id, attempt) = (text("x-webhook-event"), text("webhook-id"), text("x-webhook-attempt"));
    let signature = showing.judge(&request.headers, &body);
    if showing.quiet {
        tracing::debug!(event = id, attempt, signature, "received");
    } else {
        let payload = String::from_utf8_lossy(&body);
        print(format_args!("received {kind} {id}, attempt {attempt}, {signature}\n  {payload}"));
    }
    Ok(response::json(StatusCode::OK, &serde_json::json!({ "received": id })))
}

impl Showing {
    fn judge(&self, headers: &HeaderMap, body: &[u8]) -> &'static str {
        let secret = self.engine.registry.endpoint_of(&self.merchant).and_then(|endpoint| endpoint.secret.clone());
        match (secret, header(headers, "x-webhook-signature")) {
            (None, None) => "unsigned",
            (Some(secret), Some(given)) if signature::verify(&secret, body, given) => "signature verified",
            _ => "SIGNATURE WRONG",
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
