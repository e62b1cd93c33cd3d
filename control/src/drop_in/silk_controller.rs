//! `silk-controller -config=FILE`: leases of subnets (contract sections 4 and 13.1).

use std::time::Duration;

use sarcenet_server::lease::Pools;
use sarcenet_server::leases::Settings;

use super::database;
use super::keys::Keys;
use crate::config::{ControlSpec, SubnetControllerSpec};

/// How long a lease lasts without renewal (contract section 13.1).
const EXPIRY: Duration = Duration::from_hours(168);

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<ControlSpec> {
    let listen = keys.listen("listen_host", "listen_port");
    let tls = keys.mutual_tls();
    let debug = keys.local(None, "debug_server_port");
    let status = keys.local(None, "health_check_port");
    let pools = pools(keys);
    let expiry = keys.seconds("lease_expiration_seconds", EXPIRY);
    let database = database::settings(keys)?;
    let settings = Settings { pools: pools?, expiry };
    let controller = SubnetControllerSpec { listen: listen?, tls: tls?, settings };
    let nothing = ControlSpec::nothing(database);
    Some(ControlSpec { subnet_controller: Some(controller), status, debug, ..nothing })
}

fn pools(keys: &mut Keys) -> Option<Pools> {
    let prefix = keys.required_number("subnet_prefix_length", 1..=30);
    let overlay = keys.private_network("network")?;
    let pools = Pools::new(overlay, u8::try_from(prefix?).ok()?);
    pools.map_err(|e| keys.wrong("subnet_prefix_length", format_args!("cannot be used: {e}"))).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn networks_that_cannot_be_leased_are_refused() {
        for (network, prefix, said) in [
            ("10.255.0.0", 24, "network must be an IPv4 network, not `10.255.0.0`"),
            ("11.0.0.0/8", 24, "network cannot be used: overlay 11.0.0.0/8 is not private"),
            ("10.255.0.0/16", 31, "subnet_prefix_length must be a number from 1 to 30, not 31"),
            ("10.255.0.0/16", 16, "subnet_prefix_length cannot be used: subnet_prefix_length 16"),
        ] {
            let text = format!(r#"{{"network":"{network}","subnet_prefix_length":{prefix}}}"#);
            let mut keys = Keys::parse(text.as_bytes()).unwrap();
            assert!(pools(&mut keys).is_none());
            let told = keys.finish(Path::new("f")).unwrap_err().to_string();
            assert!(told.contains(said), "{told}");
        }
    }
}
