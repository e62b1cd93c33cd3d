//! `policy-server-internal -config-file=FILE`: the internal API (contract sections 2 and 13.3).

use sarcenet_server::policies::InternalSettings;

use super::database;
use super::keys::Keys;
use crate::config::{ControlSpec, InternalSpec};

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<ControlSpec> {
    let listen = keys.listen("listen_host", "internal_listen_port");
    let tls = keys.mutual_tls();
    let debug = keys.local(Some("debug_server_host"), "debug_server_port");
    let status = keys.local(None, "health_check_port");
    let (database, tag_bytes) = database::with_tags(keys)?;
    let settings = InternalSettings { tag_bytes, ..InternalSettings::default() };
    let internal = InternalSpec { listen: listen?, tls: tls?, settings };
    let nothing = ControlSpec::nothing(database);
    Some(ControlSpec { internal: Some(internal), status, debug, ..nothing })
}
