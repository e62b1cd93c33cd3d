//! `policy-server -config-file=FILE`: the external API (contract sections 1 and 13.2).

use std::time::Duration;

use sarcenet_server::http::tls::ServerFiles;
use sarcenet_server::policies::ExternalSettings;

use super::keys::Keys;
use super::{database, platform};
use crate::config::{AuthSpec, CloudControllerSpec, ControlSpec, ExternalSpec, UaaSpec};

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<ControlSpec> {
    let listen = keys.listen("listen_host", "listen_port");
    let tls = keys.flag("enable_tls");
    let identity = if tls { Some(keys.identity()) } else { None };
    let debug = keys.local(Some("debug_server_host"), "debug_server_port");
    let database = database::with_tags(keys);
    let platform = platform::settings(keys);
    let cleanup_interval = keys.seconds("cleanup_interval", Duration::from_hours(1));
    let default = ExternalSettings::default();
    let most = keys.number("max_policies", 1..=u64::from(u32::MAX));
    let settings = ExternalSettings {
        allowed_cors_domains: keys.texts("allowed_cors_domains"),
        tls,
        space_developer_self_service: keys.flag("enable_space_developer_self_service"),
        max_policies_per_app_source: most.unwrap_or(default.max_policies_per_app_source),
        ..default
    };

    let (database, tag_bytes) = database?;
    let (uaa, cloud_controller) = platform.servers?;
    let cloud_controller = CloudControllerSpec { settings: cloud_controller, cleanup_interval };
    let uaa = UaaSpec { uaa, cloud_controller: Some(cloud_controller) };
    let tls = match identity {
        Some(identity) => Some(ServerFiles { identity: identity?, client_ca: None }),
        None => None,
    };
    let external = ExternalSpec {
        listen: listen?,
        tls,
        settings: ExternalSettings { tag_bytes, ..settings },
        auth: AuthSpec::Uaa(Box::new(uaa)),
    };
    Some(ControlSpec { external: Some(external), debug, ..ControlSpec::nothing(database) })
}
