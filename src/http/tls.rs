//! TLS for a listener: one certificate chain and its key, from PEM files.
//!
//! Never speaks anything older than TLS 1.2 or anything but HTTP/1.1; never prints a key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// What a listener needs to speak TLS.
#[derive(Clone)]
pub struct Tls(Arc<ServerConfig>);

/// Why the certificate or the key cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file with the chain.
    #[error("cannot read certificates from {path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: pem::Error,
    },
    /// The file with the key.
    #[error("cannot read a private key from {path}: {reason}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: pem::Error,
    },
    /// Both were read, but do not fit together or are of an unknown kind.
    #[error("certificate {certificate} and key {key} cannot be used: {reason}")]
    Pair {
        /// The file with the chain.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// Why not.
        reason: rustls::Error,
    },
}

impl Tls {
    /// Reads a chain, the listener's own certificate first, and the key of that certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let unreadable = |reason| TlsError::Certificate { path: certificate.into(), reason };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .map_err(unreadable)?
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|reason| TlsError::Key { path: key.into(), reason })?;
        let unusable = |reason| TlsError::Pair { certificate: certificate.into(), key: key.into(), reason };
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
