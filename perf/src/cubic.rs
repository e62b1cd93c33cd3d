//! TCP's congestion control, the same for everybody and from the first packet.
//!
//! `iperf3 -C cubic` changes it after the connection is there. A socket that began with BBR, where
//! that is the system's default, keeps the pacing that BBR asked for (`sk_pacing_status`,
//! `net/ipv4/tcp_bbr.c`), and its timers take as much time as a copy of the data. A namespace's own
//! default cannot be changed without allowing the algorithm for the whole machine, but a route can
//! name one (`ip-route(8)`, `congctl`).

use std::process::Command;

use anyhow::{Result, ensure};
use sarcenet_rig::Namespace;

/// Replaces each route by one that names the algorithm.
const SCRIPT: &str =
    "ip -4 route show | while read -r route; do ip route replace $route congctl cubic; done";

/// Makes all connections of a network namespace use CUBIC.
pub(crate) fn use_in(namespace: &Namespace) -> Result<()> {
    let output = namespace.output(Command::new("sh").args(["-ec", SCRIPT]))?;
    ensure!(
        output.status.success(),
        "cannot name cubic in the routes of {}: {}",
        namespace.name(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
