//! The way out of the overlay and into it: security groups, source NAT, mapped ports.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Result;
use sarcenet_rig::outside::network;
use sarcenet_rig::{GroupRule, Outcome, OutsideHost, SecurityGroup};

use super::setting::{MAPPED_PORT, SPACE, Setting};
use super::steps::{felt_after, greeted, in_time, refused};
use super::teller::Teller;

/// Name of the security group.
const GROUP: &str = "web";
/// Ports of the server outside.
const PORTS: [u16; 2] = [80, 81];
/// How soon a change of the policy server's file of security groups must be felt. It is read when it
/// has been quiet for some time, so that nobody is told half of it.
const FILE_BAR: Duration = Duration::from_millis(500);

/// Tells this part.
pub(super) fn tell(teller: &mut Teller, setting: &Setting) -> Result<()> {
    let Setting { world, a, b_near, .. } = setting;
    let host = world.outside()?.namespace();
    let address = OutsideHost::address(network::PLAIN, 10);
    let [open, closed] = PORTS.map(|port| SocketAddrV4::new(address, port));
    let _servers = [open, closed]
        .map(|target| host.serve_http("the outside", target))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let cell = world.cells()[a.cell()].plan().underlay;

    Teller::chapter("Without a security group nothing leaves the overlay");
    refused(teller, &format!("app-a to {open}"), a, open)?;

    let rule = GroupRule::tcp(address, &PORTS[0].to_string());
    let began = Instant::now();
    world.bind(SecurityGroup::running(GROUP, SPACE, &[rule]))?;
    let felt = felt_after(began, a, open, Outcome::is_connected)?;
    Teller::chapter(&format!(
        "In the policy server's file a security group of app-a's space admits tcp to {open}"
    ));
    in_time(teller, &format!("app-a to {open}"), felt, FILE_BAR, "open");
    greeted(teller, "who the outside sees", a.namespace(), open, "the outside", cell);
    refused(teller, &format!("app-a to {closed}"), a, closed)?;
    refused(teller, &format!("app-b, of no space, to {open}"), b_near, open)?;

    let mapped = SocketAddrV4::new(cell, MAPPED_PORT);
    Teller::chapter(&format!("Port {MAPPED_PORT} of the first cell leads to app-b"));
    // The source address of the outside's host on the way to the cells.
    let from = Ipv4Addr::new(198, 51, 100, 2);
    greeted(teller, &format!("the outside to {mapped}"), host, mapped, "app-b", from);
    refused(teller, &format!("app-a, on the same cell, to {mapped}"), a, mapped)
}
