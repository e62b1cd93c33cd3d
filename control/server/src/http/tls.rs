//! TLS from PEM files, and what to do when the files change (contract section 0.2, item 7).
//!
//! TLS 1.2 and 1.3 with the suites of rustls, among them the only one of TLS 1.2 that Cloud
//! Foundry's clients offer, `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`: for them the server's key must
//! be RSA. Any client certificate of the CA bundle is good, whatever its names. Sessions are not
//! resumed: a certificate is looked at whenever a connection begins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::metrics::ServerMetrics;
use super::stop::Stop;

/// Why TLS cannot be served or spoken with these files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not PEM, or not what it should be.
    #[error("cannot use {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Each file is right, but they do not go together.
    #[error("cannot use certificate {certificate} with key {key}: {source}")]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// rustls does not take the settings.
    #[error("cannot set TLS up: {0}")]
    Settings(#[from] rustls::Error),
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Where the certificate of a server or client is, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// PEM: the certificate, then those of intermediate CAs.
    pub certificate: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// The files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Who the server is.
    pub identity: IdentityFiles,
    /// PEM: the CAs of the clients, when clients need a certificate.
    pub client_ca: Option<PathBuf>,
}

/// A certificate with its chain, and its key.
pub struct Identity {
    /// The certificate, then its chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl IdentityFiles {
    /// Reads both files.
    pub fn read(&self) -> Result<Identity, TlsError> {
        identity(self, &read(&self.certificate)?, &read(&self.key)?)
    }

    /// The error that the two do not go together.
    pub fn mismatch(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), source }
    }
}

fn identity(files: &IdentityFiles, chain: &[u8], key: &[u8]) -> Result<Identity, TlsError> {
    let chain = certificates(&files.certificate, chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsError::File {
        path: files.key.clone(),
        reason: match e {
            pem::Error::NoItemsFound => "it has no private key in PEM".to_owned(),
            e => e.to_string(),
        },
    })?;
    Ok(Identity { chain, key })
}

/// The CAs of a PEM file.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    roots_in(path, &read(path)?)
}

fn roots_in(path: &Path, text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        roots
            .add(certificate)
            .map_err(|e| TlsError::File { path: path.to_owned(), reason: e.to_string() })?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|e| wrong(e.to_string()))?;
    if found.is_empty() {
        return Err(wrong("it has no certificate in PEM".to_owned()));
    }
    Ok(found)
}

/// What is in the files of a server.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &ServerFiles) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&files.identity.certificate)?,
            key: read(&files.identity.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// When the server's certificate is over, in seconds since the epoch.
    fn expiry(&self, files: &ServerFiles) -> Result<i64, TlsError> {
        let path = &files.identity.certificate;
        let chain = certificates(path, &self.certificate)?;
        let own = chain.first().map_or(&[][..], |own| own.as_ref());
        let (_, own) = x509_parser::parse_x509_certificate(own)
            .map_err(|e| TlsError::File { path: path.clone(), reason: e.to_string() })?;
        Ok(own.validity().not_after.timestamp())
    }

    fn settings(&self, files: &ServerFiles) -> Result<ServerConfig, TlsError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(text)) => {
                let roots = Arc::new(roots_in(path, text)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|e| TlsError::File { path: path.clone(), reason: e.to_string() })?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let Identity { chain, key } = identity(&files.identity, &self.certificate, &self.key)?;
        let mut settings =
            builder.with_single_cert(chain, key).map_err(|e| files.identity.mismatch(e))?;
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        settings.session_storage = Arc::new(NoServerSessionStorage {});
        settings.send_tls13_tickets = 0;
        Ok(settings)
    }
}

/// The TLS settings of a server, as its files have them.
pub struct ServerTls {
    files: ServerFiles,
    /// What was found last, in force or not.
    seen: Mutex<Contents>,
    current: watch::Sender<Arc<ServerConfig>>,
    /// When the certificate in force is over, in seconds since the epoch.
    expiry: AtomicI64,
    /// Asks for a look at the files before it is time.
    look: Notify,
}

impl ServerTls {
    /// Reads the files.
    pub fn load(files: ServerFiles) -> Result<Self, TlsError> {
        let contents = Contents::read(&files)?;
        let (current, _) = watch::channel(Arc::new(contents.settings(&files)?));
        let expiry = contents.expiry(&files)?.into();
        Ok(Self { files, seen: Mutex::new(contents), current, expiry, look: Notify::new() })
    }

    /// Puts changed files in force for connections that begin from now on; those that are there end
    /// after the request that they are at. Whether there was a change. After an error what was in
    /// force stays, and the same files are not looked at again.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = Contents::read(&self.files)?;
        let mut seen = self.seen.lock();
        if *seen == contents {
            return Ok(false);
        }
        let settings = contents.settings(&self.files);
        let expiry = contents.expiry(&self.files);
        *seen = contents;
        let (settings, expiry) = (settings?, expiry?);
        self.expiry.store(expiry, Ordering::Relaxed);
        self.current.send_replace(Arc::new(settings));
        Ok(true)
    }

    /// When the certificate in force is over, in seconds since the epoch.
    pub fn expiry(&self) -> i64 {
        self.expiry.load(Ordering::Relaxed)
    }

    /// What is in force, now and later.
    pub fn watch(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Has whoever [follows](Self::follow) the files look at them now.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// [Reloads](Self::reload) at this interval, and whenever somebody asks for a [look](Self::look).
    pub(super) async fn follow(
        self: Arc<Self>,
        interval: Duration,
        stop: Stop,
        metrics: ServerMetrics,
    ) {
        let certificate = self.files.identity.certificate.display().to_string();
        let mut unreadable = false;
        loop {
            tokio::select! {
                ended = stop.within(interval) => if ended { return },
                () = self.look.notified() => unreadable = false,
            }
            let tls = Arc::clone(&self);
            let Ok(result) = tokio::task::spawn_blocking(move || tls.reload()).await else {
                continue;
            };
            let was_unreadable = unreadable;
            unreadable = matches!(result, Err(TlsError::Read { .. }));
            match result {
                Ok(false) => {}
                Ok(true) => {
                    metrics.reloaded(true);
                    metrics.certificate(self.expiry());
                    info!(certificate, "changed TLS files are in force");
                }
                // Said once, not each time that it is looked at.
                Err(_) if unreadable && was_unreadable => {}
                Err(e) => {
                    metrics.reloaded(false);
                    warn!(certificate, "changed TLS files are not put in force: {e}");
                }
            }
        }
    }
}
