//! `vxlan-policy-agent -config-file=FILE`: follows the policy server and tells the agent, which runs as
//! `silk-daemon` (contract sections 9 and 13.7).

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{ConnectionLimit, Logging};
use tracing::info;

use super::cell;
use super::keys::Keys;
use crate::config::{DenyNetworks, PolicyServerSpec};
use crate::follow::beside::{BesideSpec, follow};
use crate::follow::outside_terms::OutsideTerms;
use crate::follow::routers::OverlayTerms;
use crate::paths::Root;
use crate::process;

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<BesideSpec> {
    let url = cell::server(keys, "policy_server_url");
    let certs = cell::certs(keys);
    let interval = keys.seconds("poll_interval", Duration::from_secs(5));
    let timeout = keys.seconds("client_timeout_seconds", Duration::from_secs(5));
    let groups = keys.flag("enable_asg_syncing");
    let groups_interval = keys.seconds("asg_poll_interval", Duration::from_mins(1));
    let force = keys.local(Some("force_policy_poll_cycle_host"), "force_policy_poll_cycle_port");
    let debug = keys.local(Some("debug_server_host"), "debug_server_port");
    let overlay = OverlayTerms {
        ingress: keys.flag("enable_overlay_ingress_rules"),
        open: keys.flag("disable_container_network_policy"),
    };
    let outside = OutsideTerms {
        deny_networks: deny_networks(keys),
        outbound_connections: outbound_connections(keys),
        logging: logging(keys),
        security_groups: groups,
    };
    if let Err(reason) = outside.check() {
        keys.wrong(
            "deny_networks or outbound_connections",
            format_args!("cannot be used: {reason}"),
        );
    }
    let policy_server = PolicyServerSpec {
        url: url?,
        certs: certs?,
        interval,
        timeout,
        watch: true,
        security_groups: groups.then_some(groups_interval),
        routers: overlay.ingress,
        force: force.unwrap_or(cell::loopback(8722)),
        logging: None,
    };
    let debug = debug.unwrap_or(cell::loopback(8721));
    Some(BesideSpec { policy_server, outside, overlay, debug })
}

fn deny_networks(keys: &mut Keys) -> DenyNetworks {
    let read = |keys: &mut Keys| {
        let mut list = |key: &str| networks(keys, key);
        let (always, running, staging) = (list("always"), list("running"), list("staging"));
        Some(DenyNetworks { always, running, staging })
    };
    keys.optional_section("deny_networks.", read).unwrap_or_default()
}

fn networks(keys: &mut Keys, key: &str) -> Vec<Ipv4Net> {
    let mut networks = Vec::new();
    for text in keys.texts(key) {
        let address = || Some(text.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4)?.into());
        let network = text.parse::<ipnet::IpNet>().ok().or_else(address);
        match network {
            Some(ipnet::IpNet::V4(network)) => networks.push(network.trunc()),
            _ => keys.wrong(key, format_args!("must be IPv4 networks; `{text}` is none")),
        }
    }
    networks
}

fn outbound_connections(keys: &mut Keys) -> Option<ConnectionLimit> {
    keys.optional_section("outbound_connections.", |keys| {
        let (limit, dry_run) = (keys.flag("limit"), keys.flag("dry_run"));
        let log = keys.flag("logging");
        let mut number = |key: &str, default: u32| {
            let number = keys.number(key, 0..=u32::MAX.into()).filter(|number| *number > 0);
            number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
        };
        let (burst, per_second) = (number("burst", 1000), number("rate_per_sec", 100));
        let wanted = limit || dry_run;
        wanted.then_some(ConnectionLimit { per_second, burst, dry_run, log })
    })
}

fn logging(keys: &mut Keys) -> Logging {
    let default = Logging::default();
    let (overlay, egress) = (keys.flag("iptables_c2c_logging"), keys.flag("iptables_asg_logging"));
    let mut number = |key: &str, default: u32| {
        let number = keys.number(key, 0..=1_000_000).filter(|number| *number > 0);
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    };
    Logging {
        overlay,
        egress,
        denied_per_second: number("iptables_denied_logs_per_sec", default.denied_per_second),
        accepted_udp_per_second: number(
            "iptables_accepted_udp_logs_per_sec",
            default.accepted_udp_per_second,
        ),
    }
}

/// Follows until it is told to end. The agent stays as it is.
pub(super) fn run(spec: BesideSpec, root: &Root) -> Result<ExitCode> {
    let mut signals = process::signals()?;
    let runtime = process::runtime()?;
    let ended = runtime.block_on(follow(spec, root, signals.end()));
    // An exchange with the agent that is under way is waited for by nobody.
    runtime.shutdown_background();
    info!("{}: ended; what the agent was told stays in force", ended?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FILE: &str = r#"{"ca_cert_file":"/ca","client_cert_file":"/crt","client_key_file":"/key",
        "policy_server_url":"https://10.77.1.1:4003","deny_networks":{"always":["10.0.0.1/8"],
        "running":["1.2.3.4"]},"outbound_connections":{"limit":true,"rate_per_sec":7},
        "iptables_c2c_logging":true,"iptables_denied_logs_per_sec":3}"#;

    #[test]
    fn what_is_said_of_the_outside() {
        let mut keys = Keys::parse(FILE.as_bytes()).unwrap();
        let BesideSpec { policy_server, outside, overlay: terms, debug } = spec(&mut keys).unwrap();
        assert_eq!(keys.finish(Path::new("f")).unwrap(), [""; 0]);
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let denied = DenyNetworks {
            always: nets(&["10.0.0.0/8"]),
            running: nets(&["1.2.3.4/32"]),
            staging: Vec::new(),
        };
        assert_eq!(outside.deny_networks, denied);
        let limit = ConnectionLimit { per_second: 7, burst: 1000, dry_run: false, log: false };
        assert_eq!(outside.outbound_connections, Some(limit));
        let Logging { overlay, egress, denied_per_second, accepted_udp_per_second } =
            outside.logging;
        assert_eq!((overlay, egress), (true, false));
        assert_eq!((denied_per_second, accepted_udp_per_second), (3, 100));
        assert!(!outside.security_groups && policy_server.security_groups.is_none());
        assert!(terms == OverlayTerms::default() && !policy_server.routers);
        let listen = [policy_server.force, debug].map(|address| address.to_string());
        assert_eq!(listen, ["127.0.0.1:8722", "127.0.0.1:8721"]);
    }

    #[test]
    fn what_is_said_of_the_overlay() {
        for (more, ingress, open) in [
            (r#""enable_overlay_ingress_rules":true,"#, true, false),
            (r#""disable_container_network_policy":true,"#, false, true),
        ] {
            let file = FILE.replacen('{', &format!("{{{more}"), 1);
            let spec = spec(&mut Keys::parse(file.as_bytes()).unwrap()).unwrap();
            assert_eq!(spec.overlay, OverlayTerms { ingress, open });
            assert_eq!(spec.policy_server.routers, ingress);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (from, to, said) in [
            ("1.2.3.4", "::1", "deny_networks.running must be IPv4 networks; `::1` is none"),
            (":7", ":-1", "outbound_connections.rate_per_sec must be a number from 0 to 42"),
            ("https:", "http:", "policy_server_url is asked with a certificate: it must begin"),
        ] {
            let mut keys = Keys::parse(FILE.replacen(from, to, 1).as_bytes()).unwrap();
            let _ = spec(&mut keys);
            let told = keys.finish(Path::new("f")).unwrap_err().to_string();
            assert!(told.contains(said), "{told}");
        }
    }
}
