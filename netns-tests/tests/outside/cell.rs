//! What of the cell itself containers reach.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use sarcenet_rig::GroupRule;
use sarcenet_rig::outside::{DNS_SERVER, HOST_SERVICE};

use crate::case::{
    Case, at, connects, fresh_host_port, is_answered, is_refused, is_refused_udp, ping,
};

/// What listens on the cell is out of reach of its containers, at each of its addresses, whatever
/// their groups admit.
pub(crate) fn is_protected(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let cell = &case.world.cells()[0];
    let _open = case.open(&[GroupRule::all("0.0.0.0/0")])?;
    let port = fresh_host_port();
    let listen = at(Ipv4Addr::UNSPECIFIED, port);
    let _servers =
        (cell.namespace().serve_http("cell", listen)?, cell.namespace().serve_udp(listen)?);
    let addresses =
        [cell.plan().underlay, cell.plan().subnet.network(), DNS_SERVER, *HOST_SERVICE.ip()];
    for address in addresses {
        is_refused(from, at(address, port))?;
        is_refused_udp(from, at(address, port))?;
        let (answered, text) = ping(from, address, &[])?;
        ensure!(!answered && text.contains("Port Unreachable"), "{address}: {text}");
    }
    // The servers are there.
    connects(case.outside()?, at(cell.plan().underlay, port))
}

/// The services that are listed are reached, by TCP and UDP, without any group; the service's
/// address has no other open port, and its port is open at no other address. It sees the
/// container's own address.
pub(crate) fn offers_its_services_alone(case: &Case) -> Result<()> {
    let from = &case.container;
    let cell = &case.world.cells()[0];
    // Other checks may look at the same service of the same cell now; they share it.
    let _guard = SERVICES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _servers = (
        cell.namespace().serve_http("cell", at(Ipv4Addr::UNSPECIFIED, HOST_SERVICE.port()))?,
        cell.namespace().serve_udp(HOST_SERVICE)?,
    );
    crate::case::sees(from.namespace(), HOST_SERVICE, from.address())?;
    is_answered(from.namespace(), HOST_SERVICE, from.address())?;
    is_refused(from.namespace(), at(*HOST_SERVICE.ip(), HOST_SERVICE.port() + 1))?;
    is_refused(from.namespace(), at(cell.plan().underlay, HOST_SERVICE.port()))?;
    is_refused(from.namespace(), at(DNS_SERVER, HOST_SERVICE.port()))
}

/// Checks that serve a cell's own services take turns.
static SERVICES: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The cell names its link-local DNS server, which answers by UDP and TCP.
pub(crate) fn answers_for_dns(case: &Case) -> Result<()> {
    let from = &case.container;
    ensure!(from.nameservers() == [DNS_SERVER], "{:?}", from.nameservers());
    let cell = &case.world.cells()[0];
    let _guard = SERVICES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let server = at(DNS_SERVER, 53);
    let _servers =
        (cell.namespace().serve_http("dns", server)?, cell.namespace().serve_udp(server)?);
    is_answered(from.namespace(), server, from.address())?;
    connects(from.namespace(), server)?;
    is_refused(from.namespace(), at(*HOST_SERVICE.ip(), 53))
}
