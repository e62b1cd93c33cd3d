//! What the files of a cell's programs have in common.

use std::net::{Ipv4Addr, SocketAddr};

use super::keys::Keys;
use super::platform;
use crate::config::CertsSpec;

/// With what servers are asked: files below the root of all paths.
pub(super) fn certs(keys: &mut Keys) -> Option<CertsSpec> {
    let ca = keys.required_path("ca_cert_file");
    let cert = keys.required_path("client_cert_file");
    let key = keys.required_path("client_key_file");
    Some(CertsSpec::new(ca?, cert?, key?))
}

/// The address of a server that is asked with a certificate.
pub(super) fn server(keys: &mut Keys, key: &str) -> Option<String> {
    let url = keys.required_text(key)?;
    let url = platform::server(keys, key, url)?;
    if !url.starts_with("https://") {
        keys.wrong(key, "is asked with a certificate: it must begin with https://");
        return None;
    }
    Some(url)
}

/// This port of the loopback interface.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
