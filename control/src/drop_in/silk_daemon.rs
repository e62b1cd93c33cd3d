//! `silk-daemon -config=FILE` and `silk-teardown -config=FILE`: a cell's agent, and its end (contract
//! sections 5 and 13.5).
//!
//! What the file does not say has the defaults of the network file, and containers have a way to the
//! outside. What the policy server says comes from `vxlan-policy-agent`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use sarcenet_dataplane_api::{Revoke, Tracking, UplinkMode};
use sarcenet_server::lease::Pools;

use super::cell;
use super::keys::Keys;
use crate::agent::{Found, Options};
use crate::config::{
    Apps, DEFAULT_COLLECT_AFTER, DEFAULT_SNAT_PORTS, FollowSpec, LeasesSpec, Network, OutsideSpec,
};
use crate::paths::Root;
use crate::process;

/// What its file says.
pub(super) fn spec(keys: &mut Keys) -> Option<Network> {
    let underlay = keys.required_address("underlay_ip");
    let overlay = keys.private_network("overlay_network");
    let prefix = keys.required_number("subnet_prefix_length", 16..=30);
    let vni = keys.required_number("vni", 0..=0xff_ffff);
    let port = keys.required_number("vtep_port", 1..=65535);
    let url = cell::server(keys, "connectivity_server_url");
    let certs = cell::certs(keys);
    let interval = keys.seconds("poll_interval", Duration::from_secs(30));
    let timeout = keys.seconds("client_timeout_seconds", Duration::from_secs(5));
    let partition_tolerance =
        keys.seconds("partition_tolerance_seconds", Duration::from_hours(168));
    let single_ip = keys.flag("single_ip_only");
    let network_info = keys.local(None, "health_check_port").unwrap_or(cell::loopback(23954));
    let status = keys.local(None, "debug_server_port").unwrap_or(cell::loopback(22233));

    let (underlay, overlay) = (underlay?, overlay?);
    let (block_prefix, port) = (u8::try_from(prefix?).ok()?, u16::try_from(port?).ok()?);
    if overlay.trunc() != overlay {
        let what = format!("cannot be {overlay}: write {}", overlay.trunc());
        keys.wrong("overlay_network", what);
    }
    if overlay.contains(&underlay) {
        let what = format!("cannot be {underlay}, which lies in the overlay {overlay}");
        keys.wrong("underlay_ip", what);
    }
    if let Err(e) = Pools::new(overlay, block_prefix) {
        keys.wrong("subnet_prefix_length", format_args!("cannot be used: {e}"));
    }
    if DEFAULT_SNAT_PORTS.contains(port) {
        let what = format!("cannot be {port}: source NAT has the ports {DEFAULT_SNAT_PORTS}");
        keys.wrong("vtep_port", what);
    }
    let control = FollowSpec {
        underlay,
        certs: certs?,
        leases: LeasesSpec {
            url: url?,
            interval,
            timeout,
            partition_tolerance,
            block_prefix,
            single_ip,
        },
        policy_server: None,
        network_info,
    };
    Some(Network {
        overlay,
        cells: Vec::new(),
        apps: Apps::default(),
        policies: Vec::new(),
        vni: u32::try_from(vni?).ok()?,
        port,
        mtu: None,
        revoke: Revoke::default(),
        uplink: UplinkMode::default(),
        outside: Some(OutsideSpec::default()),
        security_groups: None,
        tracking: Tracking::default(),
        open_overlay: false,
        router_tag: None,
        own_tag: None,
        control: Some(control),
        status: Some(status),
        collect_after: Some(DEFAULT_COLLECT_AFTER),
    })
}

/// Runs the agent. It is called by the cell's address, as all other cells are.
pub(super) fn run(network: Network, file: &Path, root: Root) -> Result<ExitCode> {
    let signals = process::signals()?;
    let cell = network.control.as_ref().map_or_else(String::new, |spec| spec.underlay.to_string());
    let options = Options { root, cell, network: file.to_owned() };
    process::run(Found::given(options, network)?, signals)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"underlay_ip":"10.77.0.11","overlay_network":"10.255.0.0/16",
        "subnet_prefix_length":24,"vni":1,"vtep_port":4789,"ca_cert_file":"/ca",
        "client_cert_file":"/crt","client_key_file":"/key",
        "connectivity_server_url":"https://10.77.1.1:4103"}"#;

    #[test]
    fn what_cannot_be_is_refused() {
        for (from, to, said) in [
            (r#""10.77.0.11""#, r#""10.255.0.7""#, "underlay_ip cannot be 10.255.0.7, which lies"),
            (r#""10.77.0.11""#, r#""cell""#, "underlay_ip must be an IPv4 address, not `cell`"),
            (":24", ":16", "subnet_prefix_length cannot be used: "),
            (":24", ":31", "subnet_prefix_length must be a number from 16 to 30, not 31"),
            ("10.255.0.0", "11.255.0.0", "overlay_network cannot be used: overlay 11.255.0.0/16"),
            ("10.255.0.0", "10.255.7.0", "overlay_network cannot be 10.255.7.0/16: write 10.255.0"),
            (":4789", ":20000", "vtep_port cannot be 20000: source NAT has the ports 16384-32767"),
            ("https:", "http:", "connectivity_server_url is asked with a certificate: it must b"),
            (r#""/key""#, r#""""#, "client_key_file is missing"),
        ] {
            let mut keys = Keys::parse(FILE.replacen(from, to, 1).as_bytes()).unwrap();
            let _ = spec(&mut keys);
            let told = keys.finish(Path::new("f")).unwrap_err().to_string();
            assert!(told.contains(said), "{told}");
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let network = spec(&mut Keys::parse(FILE.as_bytes()).unwrap()).unwrap();
        let (control, status) = (network.control.unwrap(), network.status.unwrap());
        assert_eq!((control.leases.interval.as_secs(), control.leases.block_prefix), (30, 24));
        let listen = [control.network_info, status].map(|address| address.to_string());
        assert_eq!(listen, ["127.0.0.1:23954", "127.0.0.1:22233"]);
        assert_eq!(network.outside, Some(OutsideSpec::default()));
        let file = "overlay: 10.255.0.0/16\noutside: {}\ncontrol: {underlay: 10.77.0.11}\n";
        let same = Network::parse(file).unwrap();
        assert_eq!((network.outside, network.tracking), (same.outside, same.tracking));
        assert_eq!((network.vni, network.port, network.mtu), (same.vni, same.port, same.mtu));
        assert_eq!(network.collect_after, same.collect_after);
    }
}
