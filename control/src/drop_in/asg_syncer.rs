//! `policy-server-asg-syncer -config-file=FILE`: the sync of security groups (contract sections 1.10
//! and 13.4). The lock is in the database, not in Locket. What fails is tried again.

use std::time::Duration;

use sarcenet_server::outbound::OutboundSettings;

use super::keys::Keys;
use super::{database, platform};
use crate::config::{ControlSpec, GroupsSpec, SourceSpec, SyncSpec};

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<ControlSpec> {
    let platform = platform::settings(keys);
    let url = keys.required_text("cc_internal_url");
    let url = url.and_then(|url| platform::server(keys, "cc_internal_url", url));
    let certificate = keys.path("cc_internal_client_cert");
    let identity = certificate.zip(keys.path("cc_internal_client_key"));
    let outbound = platform::outbound(keys, "cc_internal_ca_cert", platform.skip_verification);
    let interval = keys.seconds("asg_poll_interval_seconds", Duration::from_mins(1));
    let database = database::settings(keys)?;
    let outbound = OutboundSettings { identity, ..outbound };
    let source = SourceSpec { url: url?, outbound, interval };
    let (uaa, cloud_controller) = platform.servers?;
    let sync = GroupsSpec::Sync(Box::new(SyncSpec { uaa, cloud_controller, source }));
    Some(ControlSpec { security_groups: Some(sync), ..ControlSpec::nothing(database) })
}
