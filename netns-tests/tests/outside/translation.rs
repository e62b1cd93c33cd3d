//! The addresses that the outside sees, and what comes back through them.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sarcenet_rig::outside::{NARROW_MTU, ROUTER, SNAT_PORTS, network};
use sarcenet_rig::{GroupRule, OutsideHost, UdpAnswer, ask_udp, eventually};

use crate::case::{Case, PATIENCE, at, connects, fresh_address, is_answered, ping, sees};

/// Bytes of a large transfer.
const LARGE: usize = 4 << 20;

/// Hosts outside see the cell's address, with a port of the range that is for it; transfers arrive
/// whole both ways.
pub(crate) fn hides_containers(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let outside = at(fresh_address(), 8080);
    let _open = case.open(&[GroupRule::all(outside.ip())])?;
    let host = case.outside()?;
    let (_http, server) = (host.serve_http("outside", outside)?, host.serve_udp(outside)?);
    let cell = case.cell_address();
    sees(from, outside, cell)?;
    for _ in 0..20 {
        is_answered(from, outside, cell)?;
    }
    for (sender, _) in server.received() {
        ensure!(sender.ip() == IpAddr::V4(cell), "{sender}");
        ensure!(case.is_kernel() || SNAT_PORTS.contains(&sender.port()), "{sender}");
    }
    let mut client = from.http(outside, PATIENCE)?;
    client.download(LARGE)?;
    client.upload(LARGE)
}

/// Destinations of `no_masquerade` see the container's own address.
pub(crate) fn leaves_some_networks_alone(case: &Case) -> Result<()> {
    let from = &case.container;
    let outside = at(OutsideHost::address(network::OWN_ADDRESS, 9), 8080);
    let _open = case.open(&[GroupRule::all(network::OWN_ADDRESS)])?;
    let host = case.outside()?;
    let _servers = (host.serve_http("outside", outside)?, host.serve_udp(outside)?);
    sees(from.namespace(), outside, from.address())?;
    is_answered(from.namespace(), outside, from.address())?;
    let (answered, text) = ping(from.namespace(), *outside.ip(), &[])?;
    ensure!(answered, "{text}");
    Ok(())
}

/// Two containers talk to one server from the same port of theirs: each gets its own answers.
pub(crate) fn keeps_containers_apart(case: &Case) -> Result<()> {
    let outside = at(fresh_address(), 9090);
    let _open = case.open(&[GroupRule::all(outside.ip())])?;
    let server = case.outside()?.serve_udp(outside)?;
    let second = case.world.attach_as(0, &case.spec()?)?;
    let local = at(Ipv4Addr::UNSPECIFIED, 20_000);
    let sockets = [&case.container, &second]
        .map(|container| container.udp_socket(local))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for round in 0..5 {
        for (number, socket) in sockets.iter().enumerate() {
            let payload = format!("{number} {round}");
            let answer = ask_udp(socket, outside, payload.as_bytes(), PATIENCE)?;
            let expected = format!("{} {payload}", case.cell_address()).into_bytes();
            ensure!(answer == UdpAnswer::Answered(expected), "{payload}: {answer:?}");
        }
    }
    let mut ports: Vec<_> = server.received().iter().map(|(sender, _)| sender.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ensure!(ports.len() == 2, "{ports:?}");
    Ok(())
}

/// Echo requests with the same identifier from two containers are each answered.
pub(crate) fn carries_echo(case: &Case) -> Result<()> {
    let address = fresh_address();
    let _open = case.open(&[GroupRule::icmp(address, 8, 0)])?;
    let second = case.world.attach_as(0, &case.spec()?)?;
    for _ in 0..3 {
        for container in [&case.container, &second] {
            let (answered, text) = ping(container.namespace(), address, &["-e", "4711"])?;
            ensure!(answered, "{text}");
        }
    }
    Ok(())
}

/// Traceroute - by UDP, ICMP and TCP - sees the router and then its target: the router's errors
/// are about the translated packets, and must come back as about the container's own.
pub(crate) fn carries_errors_of_routers(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let outside = at(fresh_address(), 8080);
    let _open = case.open(&[GroupRule::all(outside.ip())])?;
    let _server = case.outside()?.serve_http("outside", outside)?;
    for method in [&["-U"][..], &["-I"], &["-T", "-p", "8080"], &[]] {
        // A busy machine may lose one.
        eventually(PATIENCE, || {
            let mut command = Command::new("traceroute");
            command.args(["-n", "-q", "1", "-w", "2", "-m", "5", "-N", "1"]).args(method);
            let text = from.checked(command.arg(outside.ip().to_string()))?;
            let text = format!("{method:?}: {text}");
            let hops: Vec<Option<Ipv4Addr>> = text
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().nth(1)?.parse().ok())
                .collect();
            let router = hops.iter().position(|hop| *hop == Some(ROUTER));
            let target = hops.iter().position(|hop| hop.as_ref() == Some(outside.ip()));
            let (router, target) = (router.context(text.clone())?, target.context(text.clone())?);
            ensure!(target == router + 1 && hops.len() == target + 1, "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A router that cannot pass a packet on says so to the cell's address, and the container learns
/// of it: large transfers arrive, and ping tells the MTU.
pub(crate) fn carries_path_mtu(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let outside = at(OutsideHost::address(network::NARROW, 200), 8080);
    let _open = case.open(&[GroupRule::all(outside.ip())])?;
    let _server = case.outside()?.serve_http("outside", outside)?;
    let (answered, text) = ping(from, *outside.ip(), &["-M", "do", "-s", "1400"])?;
    ensure!(!answered && text.contains(&format!("mtu = {NARROW_MTU}")), "{text}");
    let (answered, text) = ping(from, *outside.ip(), &["-M", "do", "-s", "1200"])?;
    ensure!(answered, "{text}");
    let route = from.checked(Command::new("ip").args([
        "-n",
        from.name(),
        "route",
        "get",
        &outside.ip().to_string(),
    ]))?;
    ensure!(route.contains(&format!("mtu {NARROW_MTU}")), "{route}");
    from.ip("route flush cache\n")?;
    let mut client = from.http(outside, PATIENCE)?;
    client.upload(LARGE)?;
    client.download(LARGE)
}

/// Datagrams beyond the MTU, in fragments both ways, arrive whole.
pub(crate) fn carries_fragments(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let outside = at(fresh_address(), 9090);
    let _open = case.open(&[GroupRule::all(outside.ip())])?;
    let _server = case.outside()?.serve_udp(outside)?;
    for length in [1450, 4000, 20_000] {
        let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let answer = from.ask_udp(outside, &payload, PATIENCE)?;
        let expected = [format!("{} ", case.cell_address()).as_bytes(), &payload].concat();
        ensure!(answer == UdpAnswer::Answered(expected), "{length} bytes do not come back");
    }
    // And one that needs none.
    is_answered(from, outside, case.cell_address())?;
    let (answered, text) = ping(from, *outside.ip(), &["-s", "4000"])?;
    ensure!(answered, "{text}");
    let http = at(*outside.ip(), 9091);
    let _http = case.outside()?.serve_http("outside", http)?;
    connects(from, http)
}
