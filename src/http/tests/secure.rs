//! TLS on a listener.
//!
//! Never trusts more than the certificate made for the test.

use std::path::Path;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;

struct Pki {
    directory: tempfile::TempDir,
    trust: RootCertStore,
}

impl Pki {
    fn new() -> Pki {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        let mut trust = RootCertStore::empty();
        trust.add(made.cert.der().clone()).expect("a root");
        Pki { directory, trust }
    }

    fn load(&self, certificate: &str, key: &str) -> Result<Tls, TlsError> {
        let at = |name: &str| self.directory.path().join(Path::new(name));
        Tls::load(&at(certificate), &at(key))
    }

    fn connector(&self) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_root_certificates(self.trust.clone())
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

#[tokio::test]
async fn requests_and_refusals_pass_through_tls() {
    let pki = Pki::new();
    let tls = pki.load("cert.pem", "key.pem").expect("a good pair");
    let rig = Rig::start_with(Limits::default(), Some(tls), Hooks::default()).await;
    let large = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000));
    for (request, status) in
        [("GET /hello/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200), (large.as_str(), 413)]
    {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = pki.connector().connect(name, connect(rig.address).await).await.expect("a handshake");
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        timeout(LIVENESS, stream.read_to_string(&mut answer)).await.expect("ends").expect("a clean end");
        assert_eq!(statuses(&answer), [status]);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_awaited() {
    let pki = Pki::new();
    let tls = pki.load("cert.pem", "key.pem").expect("a good pair");
    let limits = Limits { tls_handshake_timeout_ms: 150, head_timeout_ms: 3_600_000, ..Limits::default() };
    let rig = Rig::start_with(limits, Some(tls), Hooks::default()).await;
    assert_eq!(rig.exchange("").await, "");
    rig.stop().await;
}

#[test]
fn bad_files_are_named() {
    let pki = Pki::new();
    let other = Pki::new();
    std::fs::copy(other.directory.path().join("key.pem"), pki.directory.path().join("other.pem")).expect("copied");
    std::fs::write(pki.directory.path().join("empty.pem"), "").expect("written");
    for (certificate, key, expect) in [
        ("absent.pem", "key.pem", "absent.pem"),
        ("cert.pem", "absent.pem", "absent.pem"),
        ("cert.pem", "cert.pem", "cannot read a private key"),
        ("empty.pem", "key.pem", "empty.pem"),
        ("cert.pem", "other.pem", "cannot be used"),
    ] {
        let error = pki.load(certificate, key).expect_err("refused").to_string();
        assert!(error.contains(expect), "{certificate} {key}: {error}");
    }
}
