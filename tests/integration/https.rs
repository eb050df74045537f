//! TLS on both sides: receivers as merchants have them, and listeners with certificates of the operator.
//!
//! Never skips verification: what is trusted is trusted because its authority was configured.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Appliance, Receiver};

/// A certificate authority made for one test.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "An authority for one test");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        Authority { issuer, dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// Its certificate in a file.
    pub(crate) fn file(&self) -> PathBuf {
        self.written("authority.pem", &self.issuer.pem())
    }

    fn written(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path
    }

    fn server(&self, params: CertificateParams) -> ServerConfig {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        server(certificate.der().clone(), &key)
    }

    /// A server that is `localhost`.
    pub(crate) fn localhost(&self) -> ServerConfig {
        self.server(names(&["localhost"]))
    }

    /// Certificate and key of `localhost` in files.
    fn listener(&self) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let certificate = names(&["localhost"]).signed_by(&key, &self.issuer).expect("a certificate");
        (self.written("cert.pem", &certificate.pem()), self.written("key.pem", &key.serialize_pem()))
    }
}

fn names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().copied().map(String::from).collect::<Vec<_>>()).expect("legal names")
}

fn server(certificate: CertificateDer<'static>, key: &KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key fits")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn m01_events_are_forwarded_to_an_https_endpoint() {
    let authority = Authority::new();
    let appliance = Appliance::start(&[("EGRESS__EXTRA_CA_FILE", text(&authority.file()))]);
    let receiver = Receiver::start_tls(authority.localhost());
    let mut merchant = appliance.merchant("acme");
    merchant.configure(
        &json!({ "url": format!("https://localhost:{}/webhooks/incoming", receiver.port()), "secret": "s" }),
    );
    for n in 0..3 {
        let id = appliance.submit(&merchant, "card_transaction", &json!({ "n": n }));
        let received = receiver.nth(n);
        assert!(received.head.starts_with("POST /webhooks/incoming HTTP/1.1\r\n"), "{}", received.head);
        assert_eq!(received.body, json!({ "n": n }).to_string().as_bytes());
        let signature = crate::signatures::hex_hmac(b"s", &received.body);
        assert_eq!(received.header("x-webhook-signature"), Some(signature.as_str()));
        assert_eq!(received.connection, 0, "one handshake serves all");
        let event = merchant.wait_for_status(&id, "delivered");
        assert_eq!(event["attempts"][0]["phases"]["tls_ms"].is_number(), n == 0, "{event}");
    }
}

#[test]
fn a_certificate_that_does_not_hold_is_named_and_nothing_is_said_to_it() {
    let authority = Authority::new();
    let settings = [("EGRESS__EXTRA_CA_FILE", authority.file()), ("DELIVERY__RETRY_SCHEDULE", PathBuf::new())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, text(value))).collect();
    let appliance = Appliance::start(&settings);
    let mut expired = names(&["localhost"]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    for (config, code) in [
        (authority.server(expired), "tls_expired"),
        (authority.server(names(&["example.com"])), "tls_name"),
        (Authority::new().localhost(), "tls_untrusted"),
    ] {
        let receiver = Receiver::start_tls(config);
        let mut merchant = appliance.merchant(code);
        merchant.configure(&json!({ "url": format!("https://localhost:{}/", receiver.port()) }));
        let id = appliance.submit(&merchant, "card_state", &json!({ "secret": "balance" }));
        let event = merchant.wait_for_status(&id, "failed");
        assert_eq!(event["last_attempt"]["error_code"], code);
        assert_eq!(event["attempts"][0]["request_headers"], json!([]), "no request was written");
        assert_eq!(receiver.count(), 0);
    }
}

#[test]
fn one_deadline_covers_the_handshake_and_the_answer() {
    let authority = Authority::new();
    let config = Arc::new(authority.localhost());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // Late with the handshake, and then without an answer until the other side hangs up.
            std::thread::sleep(Duration::from_millis(1_500));
            let server = ServerConnection::new(Arc::clone(&config)).expect("a whole config");
            let mut stream = StreamOwned::new(server, socket);
            let mut heard = [0; 1024];
            while stream.read(&mut heard).is_ok_and(|count| count > 0) {}
        }
    });
    let ca = authority.file();
    let settings =
        [("EGRESS__EXTRA_CA_FILE", text(&ca)), ("DELIVERY__TIMEOUT", "3s"), ("DELIVERY__RETRY_SCHEDULE", "")];
    let appliance = Appliance::start(&settings);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": format!("https://localhost:{port}/") }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    let attempt = &event["attempts"][0];
    assert_eq!(attempt["error_code"], "timeout");
    let duration_ms = attempt["duration_ms"].as_i64().expect("a number");
    assert!((2_900..=3_250).contains(&duration_ms), "{duration_ms}");
    assert!(attempt["phases"]["tls_ms"].as_f64().expect("a handshake") >= 1_400.0, "{attempt}");
}

#[test]
fn a_receiver_that_accepts_and_never_shakes_hands_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let settings = [("TRANSPORT__TLS_TIMEOUT", "500ms"), ("DELIVERY__RETRY_SCHEDULE", "")];
    let appliance = Appliance::start(&settings);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": format!("https://localhost:{port}/") }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(event["last_attempt"]["error_code"], "connect_timeout");
}

#[test]
fn a_host_that_does_not_resolve_is_named_as_such() {
    // Whether there is a name server here or none: this name has no address.
    let settings = [("DELIVERY__RETRY_SCHEDULE", ""), ("EGRESS__PORTS", "443")];
    let appliance = Appliance::start(&settings);
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": "https://no-such-host.example.com/" }));
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    let event = merchant.wait_for_status(&id, "failed");
    assert_eq!(
        (&event["last_attempt"]["error_code"], &event["last_attempt"]["status_code"]),
        (&json!("dns"), &json!(null))
    );
}

#[test]
fn a_listener_with_a_certificate_speaks_tls_and_says_so() {
    let authority = Authority::new();
    let (certificate, key) = authority.listener();
    let settings = [("PUBLIC__TLS_CERT", text(&certificate)), ("PUBLIC__TLS_KEY", text(&key))];
    let appliance = Appliance::start(&settings);
    let address = appliance.says("public").strip_prefix("https://").expect("the ready line names the scheme");
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a whole config");
    let socket = std::net::TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a legal time");
    let mut stream = StreamOwned::new(client, socket);
    let (path, bearer) = ("/api/v2/webhooks/config", appliance.says("merchant_key"));
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\r\n"
    )
    .expect("the handshake succeeds");
    let mut answer = String::new();
    // The other side may end the connection without a close_notify; what was answered is whole by its length.
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains(r#""secret_set":true"#), "{answer}");
    let plain =
        crate::harness::Client::new(&format!("http://{address}"), None).raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(plain.is_err(), "plain text is not answered: {plain:?}");
    assert!(appliance.says("ingest").starts_with("http://"), "each listener has its own");
}
