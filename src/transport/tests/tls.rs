//! Certificates, good and bad, and handshakes that are none.
//!
//! Never skips verification, not even here: good certificates are good because their authority is trusted.

use std::io::Write as _;
use std::sync::Mutex;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::receiver::{OK, Receiver};
use super::*;

/// A certificate authority made for one test.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "An authority for one test");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server whose certificate this authority has signed.
    fn server(&self, params: CertificateParams) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        config(certificate.der().clone(), key)
    }

    /// The authority's certificate in a file.
    fn file(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.0.pem().as_bytes()).unwrap();
        file
    }

    /// A transport that trusts this authority.
    fn trusted(&self, limits: Limits) -> HyperTransport {
        let file = self.file();
        HyperTransport::new(Settings { extra_ca: Some(file.path().to_owned()), ..settings(limits) }).unwrap()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn config(certificate: CertificateDer<'static>, key: KeyPair) -> ServerConfig {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

fn names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().copied().map(String::from).collect::<Vec<_>>()).unwrap()
}

fn at(host: &str, receiver: &Receiver) -> Parcel {
    parcel(endpoint(&format!("https://{host}:{}/hook", receiver.address.port())))
}

#[tokio::test]
async fn a_trusted_name_or_address_is_delivered_and_its_connection_kept() {
    let authority = Authority::new();
    for host in ["localhost", "127.0.0.1"] {
        let receiver = Receiver::start_tls(authority.server(names(&[host])), |peer| peer.serve(OK));
        let transport = authority.trusted(Limits::default());
        for turn in 0..3 {
            let attempt = send(&transport, at(host, &receiver)).await;
            assert_delivered(&attempt);
            assert_eq!(attempt.phases.tls_us.is_some(), turn == 0, "{host}");
        }
        assert_eq!(receiver.accepted(), 1);
        assert_eq!(receiver.requests()[0].header("host"), Some(&*format!("{host}:{}", receiver.address.port())));
    }
}

#[tokio::test]
async fn the_end_of_a_certificate_is_remembered_for_the_url_that_showed_it() {
    let authority = Authority::new();
    let mut params = names(&["localhost"]);
    params.not_after = date_time_ymd(2040, 2, 29);
    let receiver = Receiver::start_tls(authority.server(params), |peer| peer.serve(OK));
    let transport = authority.trusted(Limits::default());
    let parcel = at("localhost", &receiver);
    let endpoint = Arc::clone(&parcel.endpoint);
    assert_eq!(transport.certificate_not_after(&endpoint), None);
    assert_delivered(&send(&transport, parcel).await);
    let not_after = transport.certificate_not_after(&endpoint).map(|at| at.to_string());
    assert_eq!(not_after.as_deref(), Some("2040-02-29T00:00:00.000Z"));
    let moved = Endpoint { url: "https://localhost/elsewhere".into(), ..(*endpoint).clone() };
    assert_eq!(transport.certificate_not_after(&moved), None, "another URL");
}

#[tokio::test]
async fn a_bad_certificate_has_its_own_word() {
    let authority = Authority::new();
    let check = async |config: ServerConfig, host: &str, error: ErrorCode| {
        let receiver = Receiver::start_tls(config, |peer| peer.serve(OK));
        let attempt = send(&authority.trusted(Limits::default()), at(host, &receiver)).await;
        assert_failed(&attempt, error);
        assert!(attempt.sent.is_none() && receiver.requests().is_empty(), "nothing was said to a stranger");
        assert!(attempt.phases.tls_us.is_some());
    };
    let mut expired = names(&["localhost"]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    check(authority.server(expired), "localhost", ErrorCode::TlsExpired).await;
    let mut early = names(&["localhost"]);
    early.not_before = date_time_ymd(4000, 1, 1);
    check(authority.server(early), "localhost", ErrorCode::TlsExpired).await;
    check(authority.server(names(&["example.com"])), "localhost", ErrorCode::TlsName).await;
    check(authority.server(names(&["localhost"])), "127.0.0.1", ErrorCode::TlsName).await;
    let mut common_name_only = names(&[]);
    common_name_only.distinguished_name.push(DnType::CommonName, "localhost");
    check(authority.server(common_name_only), "localhost", ErrorCode::TlsName).await;
    check(Authority::new().server(names(&["localhost"])), "localhost", ErrorCode::TlsUntrusted).await;
    let key = KeyPair::generate().unwrap();
    let self_signed = names(&["localhost"]).self_signed(&key).unwrap();
    check(config(self_signed.der().clone(), key), "localhost", ErrorCode::TlsUntrusted).await;
}

#[tokio::test]
async fn what_is_no_tls_is_a_protocol_error() {
    for said in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0; 64],
        b"\x15\x03\x01\x00\x02\x02\x28",
    ] {
        let receiver = Receiver::start(move |peer| {
            peer.write(said);
            peer.wait_for_close();
        });
        assert_failed(&send(&transport(hasty()), at("localhost", &receiver)).await, ErrorCode::TlsProtocol);
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_up_in_the_handshake_is_a_reset() {
    let receiver = Receiver::start(|peer| peer.close());
    assert_failed(&send(&transport(hasty()), at("localhost", &receiver)).await, ErrorCode::ConnectReset);
}

#[tokio::test]
async fn a_handshake_has_its_own_deadline() {
    let check = async |limits: Limits, bytes: &'static [u8]| {
        let receiver = Receiver::start(move |peer| {
            peer.write(bytes);
            peer.wait_for_close();
        });
        let attempt = send(&transport(limits), at("localhost", &receiver)).await;
        assert_failed(&attempt, ErrorCode::ConnectTimeout);
        assert!((100..5_000).contains(&attempt.duration_ms), "{}", attempt.duration_ms);
    };
    let short = Limits { tls_timeout_ms: 100, ..Limits::default() };
    check(short, b"").await;
    check(short, b"\x16\x03\x03\x40\x00\x02").await;
    check(Limits { timeout_ms: 100, ..Limits::default() }, b"").await;
}

#[tokio::test]
async fn only_http_1_1_is_spoken() {
    let authority = Authority::new();
    let with_alpn = |protocol: &[u8]| {
        let mut config = authority.server(names(&["localhost"]));
        config.alpn_protocols = vec![protocol.to_vec()];
        Receiver::start_tls(config, |peer| peer.serve(OK))
    };
    let transport = authority.trusted(Limits::default());
    assert_failed(&send(&transport, at("localhost", &with_alpn(b"h2"))).await, ErrorCode::TlsProtocol);
    assert_delivered(&send(&transport, at("localhost", &with_alpn(b"http/1.1"))).await);
}

#[tokio::test]
async fn the_name_that_was_asked_for_is_the_name_in_the_handshake() {
    #[derive(Debug)]
    struct Witness(Arc<CertifiedKey>, Arc<Mutex<Vec<Option<String>>>>);
    impl ResolvesServerCert for Witness {
        fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            self.1.lock().unwrap().push(hello.server_name().map(String::from));
            Some(Arc::clone(&self.0))
        }
    }
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let certificate = names(&["localhost", "127.0.0.1"]).signed_by(&key, &authority.0).unwrap();
    let signer = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let certified = CertifiedKey::from_der(vec![certificate.der().clone()], signer, &provider()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Witness(Arc::new(certified), Arc::clone(&seen))));
    let receiver = Receiver::start_tls(config, |peer| peer.serve(OK));
    let transport = authority.trusted(Limits::default());
    assert_delivered(&send(&transport, at("LocalHost", &receiver)).await);
    assert_delivered(&send(&transport, at("127.0.0.1", &receiver)).await);
    assert_eq!(*seen.lock().unwrap(), [Some("localhost".to_owned()), None]);
}

#[test]
fn a_useless_file_of_authorities_is_named_at_the_start() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let mut garbled = tempfile::NamedTempFile::new().unwrap();
    garbled.write_all(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for path in [empty.path(), garbled.path(), std::path::Path::new("/nowhere/ca.pem")] {
        let fault = HyperTransport::new(Settings { extra_ca: Some(path.to_owned()), ..settings(Limits::default()) });
        let fault = fault.err().expect("the file is of no use").to_string();
        assert!(fault.contains(path.to_str().unwrap()), "{fault}");
    }
}
