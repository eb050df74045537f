//! TLS towards receivers: one configuration for all, and what its failures are called.
//!
//! Never skips verification, never offers anything but HTTP/1.1, never resumes a session: a ticket from one
//! merchant's connection must not serve another's.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::model::ErrorCode;

/// Trusts the host's certificate authorities and those of the PEM file `extra_ca`. `Err` says why that file is
/// of no use.
pub(super) fn connector(extra_ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = extra_ca {
        add_file(&mut roots, path)?;
    }
    if roots.is_empty() {
        tracing::warn!("no certificate authority is known; every HTTPS receiver will be refused");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The code for a handshake that failed, or for a session that broke.
pub(super) fn error_code(error: &io::Error) -> ErrorCode {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(reason)) => certificate_code(reason),
        Some(_) => ErrorCode::TlsProtocol,
        None => ErrorCode::ConnectReset,
    }
}

fn certificate_code(reason: &CertificateError) -> ErrorCode {
    match reason {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => ErrorCode::TlsExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => ErrorCode::TlsName,
        _ => ErrorCode::TlsUntrusted,
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let before = roots.len();
    for certificate in certificates {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.len() == before {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(())
}
