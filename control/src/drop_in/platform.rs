//! UAA and Cloud Controller, as the programs that ask them know them (contract section 13.2).

use std::time::Duration;

use sarcenet_server::access::UaaSettings;
use sarcenet_server::cloud_controller::CloudControllerSettings;
use sarcenet_server::outbound::{self, OutboundSettings};

use super::keys::Keys;

/// How the platform is asked.
pub(super) struct Platform {
    /// UAA and Cloud Controller; none if either is missing.
    pub(super) servers: Option<(UaaSettings, CloudControllerSettings)>,
    /// Whether any certificate will do.
    pub(super) skip_verification: bool,
}

/// Both servers.
pub(super) fn settings(keys: &mut Keys) -> Platform {
    let skip_verification = keys.flag("skip_ssl_validation");
    let uaa = uaa(keys, skip_verification);
    let url = keys.required_text("cc_url").and_then(|url| server(keys, "cc_url", url));
    let outbound = outbound(keys, "cc_ca_cert", skip_verification);
    // As long as Sarcenet's own files have it.
    let remember = Duration::from_mins(1);
    let cloud_controller = url.map(|url| CloudControllerSettings { url, remember, outbound });
    Platform { servers: uaa.zip(cloud_controller), skip_verification }
}

fn uaa(keys: &mut Keys, skip_verification: bool) -> Option<UaaSettings> {
    let client = keys.required_text("uaa_client");
    let secret = keys.required_text("uaa_client_secret");
    let host = keys.required_text("uaa_url");
    let port = keys.required_number("uaa_port", 1..=65535);
    let outbound = outbound(keys, "uaa_ca", skip_verification);
    let url = host.zip(port).and_then(|(host, port)| {
        let url = format!("{}:{port}", host.trim_end_matches('/'));
        server(keys, "uaa_url", url)
    });
    // Like the shipped server: one question for each request.
    let remember = Duration::ZERO;
    Some(UaaSettings { url: url?, client: client?, secret: secret?.into(), remember, outbound })
}

/// How a server is asked whose authorities are in the file of this key.
pub(super) fn outbound(keys: &mut Keys, key: &str, skip_verification: bool) -> OutboundSettings {
    // The file is named by default; when any certificate will do it need not be there.
    let authorities = keys.path(key).filter(|_| !skip_verification);
    OutboundSettings { authorities, skip_verification, ..OutboundSettings::default() }
}

/// The address of a server, if it is one.
pub(super) fn server(keys: &mut Keys, key: &str, url: String) -> Option<String> {
    match outbound::server(&url) {
        Ok(_) => Some(url),
        Err(e) => {
            keys.wrong(key, format_args!("must be the address of a server: {e}"));
            None
        }
    }
}
