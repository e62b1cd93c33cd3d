//! Certificates for deployments that have no other source of them: `sarcenet certs init`.
//!
//! A directory with a CA, a server's certificate and a client's. The server's key is RSA, which
//! Cloud Foundry's clients need for TLS 1.2 (contract section 0.2, item 7); the others are P-256.
//! What is there is kept; a certificate that is to be renewed is made anew, key and all, by the CA
//! that is there. All files are for their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType, date_time_ymd,
};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::UnixTime;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};

use crate::http::tls::{self, IdentityFiles, TlsError};

const DAY: Duration = Duration::from_hours(24);

/// How long a CA is good.
const CA_LIFE: Duration = Duration::from_hours(24 * 3650);

/// How far the clocks of others may be behind.
const SKEW: Duration = Duration::from_hours(1);

/// Longest common name (X.520).
const LONGEST_COMMON_NAME: usize = 64;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file or directory cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] TlsError),
    /// One file of a pair is missing.
    #[error("{there} is there and {missing} is not: put it back, or remove both for new ones")]
    Half {
        /// The one that is there.
        there: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
    /// Not a DNS name.
    #[error("{0:?} cannot be a name of a server")]
    Name(String),
    /// A certificate that the CA signed does not follow from its certificate.
    #[error("{path} cannot sign certificates here: {source}; only a CA that was made here can")]
    Foreign {
        /// The CA's certificate.
        path: PathBuf,
        /// Why it is not taken for the issuer.
        source: rustls::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make the {what}: {source}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// DNS names of the server; the first one is its common name.
    pub names: Vec<String>,
    /// Addresses of the server.
    pub addresses: Vec<IpAddr>,
    /// Days for which the server's and the client's certificate are good.
    pub days: u16,
    /// Make the server's and the client's certificate anew if they are there. The CA stays.
    pub renew: bool,
}

impl Default for Options {
    fn default() -> Self {
        let names = [
            "policy-server.service.cf.internal",
            "silk-controller.service.cf.internal",
            "localhost",
        ];
        Self {
            names: names.map(str::to_owned).to_vec(),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            days: 365,
            renew: false,
        }
    }
}

/// The files of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certs {
    /// The CA; its key stays where certificates are made.
    pub ca: IdentityFiles,
    /// The server's.
    pub server: IdentityFiles,
    /// The client's: of all agents, or of one.
    pub client: IdentityFiles,
    /// Which of these files were written now.
    pub written: Vec<PathBuf>,
}

/// Makes what is missing in `directory`, and the directory too.
pub fn init(directory: &Path, options: &Options) -> Result<Certs, CertsError> {
    let pair = |name: &str| IdentityFiles {
        certificate: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
    };
    let mut certs = Certs {
        ca: pair("ca"),
        server: pair("server"),
        client: pair("client"),
        written: Vec::new(),
    };
    let server = server_params(options)?;
    let ca_is_there = is_there(&certs.ca)?;
    let server_is_there = is_there(&certs.server)?;
    let client_is_there = is_there(&certs.client)?;

    let cannot_make = |source| CertsError::Write { path: directory.to_owned(), source };
    // What it is in belongs to others, too: /etc/sarcenet has files that the servers' user reads.
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent).map_err(cannot_make)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(cannot_make)?;
    let ca_key = if ca_is_there {
        stored_key(&certs.ca)?
    } else {
        let key = KeyPair::generate().map_err(making("CA's key"))?;
        let certificate = ca_params().self_signed(&key).map_err(making("CA's certificate"))?;
        certs.write(certs.ca.clone(), &certificate.pem(), &key)?;
        key
    };
    let ca = Issuer::new(ca_params(), ca_key);
    if options.renew || !server_is_there {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            .map_err(making("server's key"))?;
        certs.sign(certs.server.clone(), &server, &key, &ca)?;
    }
    if options.renew || !client_is_there {
        let key = KeyPair::generate().map_err(making("client's key"))?;
        certs.sign(certs.client.clone(), &client_params(options), &key, &ca)?;
    }
    Ok(certs)
}

impl Certs {
    /// Has a certificate signed, and writes it if others will take it.
    fn sign(
        &mut self,
        files: IdentityFiles,
        params: &CertificateParams,
        key: &KeyPair,
        ca: &Issuer<'_, KeyPair>,
    ) -> Result<(), CertsError> {
        let certificate = params.signed_by(key, ca).map_err(making("certificate"))?;
        let roots = tls::roots(&self.ca.certificate)?;
        let now = UnixTime::now();
        let provider = tls::provider();
        let server = params.extended_key_usages.contains(&ExtendedKeyUsagePurpose::ServerAuth);
        let taken = if server {
            ParsedCertificate::try_from(certificate.der()).and_then(|parsed| {
                let known = provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, known)
            })
        } else {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))
                .and_then(|verifier| verifier.verify_client_cert(certificate.der(), &[], now))
                .map(drop)
        };
        taken
            .map_err(|source| CertsError::Foreign { path: self.ca.certificate.clone(), source })?;
        self.write(files, &certificate.pem(), key)
    }

    fn write(
        &mut self,
        files: IdentityFiles,
        certificate: &str,
        key: &KeyPair,
    ) -> Result<(), CertsError> {
        for (path, text) in
            [(files.key, key.serialize_pem()), (files.certificate, certificate.into())]
        {
            replace(&path, &text)
                .map_err(|source| CertsError::Write { path: path.clone(), source })?;
            self.written.push(path);
        }
        Ok(())
    }
}

fn making(what: &'static str) -> impl FnOnce(rcgen::Error) -> CertsError {
    move |source| CertsError::Make { what, source }
}

/// Whether both files are there.
fn is_there(files: &IdentityFiles) -> Result<bool, CertsError> {
    match (files.certificate.exists(), files.key.exists()) {
        (true, false) => {
            Err(CertsError::Half { there: files.certificate.clone(), missing: files.key.clone() })
        }
        (false, true) => {
            Err(CertsError::Half { there: files.key.clone(), missing: files.certificate.clone() })
        }
        (both, _) => Ok(both),
    }
}

fn stored_key(files: &IdentityFiles) -> Result<KeyPair, CertsError> {
    let text = fs::read_to_string(&files.key)
        .map_err(|source| TlsError::Read { path: files.key.clone(), source })?;
    KeyPair::from_pem(&text).map_err(|e| {
        CertsError::File(TlsError::File { path: files.key.clone(), reason: e.to_string() })
    })
}

/// A CA is known by this name and its key alone, so its certificate need not be read to sign.
fn ca_params() -> CertificateParams {
    let mut params = params("Sarcenet CA", CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params(options: &Options) -> Result<CertificateParams, CertsError> {
    let name = options.names.first().filter(|name| name.len() <= LONGEST_COMMON_NAME);
    let name = name.map_or("Sarcenet server", String::as_str);
    let mut params = params(name, DAY * u32::from(options.days));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in &options.names {
        let wrong = || CertsError::Name(name.clone());
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._*".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(wrong());
        }
        let name = name.as_str().try_into().map_err(|_| wrong())?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let addresses = options.addresses.iter().copied().map(SanType::IpAddress);
    params.subject_alt_names.extend(addresses);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn client_params(options: &Options) -> CertificateParams {
    let mut params = params("Sarcenet agent", DAY * u32::from(options.days));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn params(common_name: &str, life: Duration) -> CertificateParams {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = epoch + now.saturating_sub(SKEW);
    params.not_after = epoch + (now + life);
    params
}

/// Puts a file in place as a whole, for its owner only.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // What is left of an earlier attempt may be for others too.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests;
