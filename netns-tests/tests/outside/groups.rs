//! Security groups: which of the outside containers reach.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use sarcenet_rig::outside::{Workload, network};
use sarcenet_rig::{
    Capture, Container, Frame, GroupRule, OutsideHost, SecurityGroup, eventually, tcp,
};

use crate::case::{
    Case, PATIENCE, at, connects, curl, fresh_address, is_answered, is_refused, is_refused_udp,
    ping,
};

/// Everything.
const ANYWHERE: &str = "0.0.0.0/0";

/// However wide a group is, it admits nothing between apps, neither on the same cell nor across.
pub(crate) fn do_not_open_the_overlay(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let _open = case.open(&[GroupRule::all(ANYWHERE)])?;
    let outside = at(fresh_address(), 8080);
    let _outside = case.outside()?.serve_http("outside", outside)?;
    connects(from, outside)?;
    for cell in [0, 1] {
        let to = case.world.attach_as(cell, &case.spec()?)?;
        let _servers = (to.serve_http(8080)?, to.serve_udp(8080)?);
        is_refused(from, at(to.address(), 8080))?;
        is_refused_udp(from, at(to.address(), 8080))?;
    }
    Ok(())
}

/// A policy between apps opens no way out.
pub(crate) fn policies_do_not_open_the_way_out(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let to = case.world.attach_as(1, &case.spec()?)?;
    let outside = at(fresh_address(), 8080);
    let host = case.outside()?;
    let _servers = (host.serve_http("outside", outside)?, to.serve_http(8080)?);
    let names = [&case.container, &to].map(|container| container.app().unwrap_or_default());
    case.world.allow(&[tcp(names[0], names[1], 1..=65535)])?;
    connects(from, at(to.address(), 8080))?;
    is_refused(from, outside)?;
    is_refused_udp(from, outside)?;
    let (answered, text) = ping(from, *outside.ip(), &[])?;
    ensure!(!answered && text.contains("Port Unreachable"), "{text}");
    Ok(())
}

/// Staging containers have the groups that are bound for staging alone, all others the rest.
pub(crate) fn staging_has_its_own(case: &Case) -> Result<()> {
    let [running, staging] = [fresh_address(), fresh_address()];
    let host = case.outside()?;
    let _servers = [running, staging]
        .map(|address| host.serve_http("outside", at(address, 80)))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let _groups = (
        case.open(&[GroupRule::tcp(running, "80")])?,
        case.bind(SecurityGroup::staging(
            &format!("{}-staging", case.space),
            &case.space,
            &[GroupRule::tcp(staging, "80")],
        ))?,
    );
    let container = |workload| case.world.attach_as(0, &case.spec()?.workload(workload));
    let task = container(Workload::Task)?;
    for runs in [&case.container, &task] {
        connects(runs.namespace(), at(running, 80))?;
        is_refused(runs.namespace(), at(staging, 80))?;
    }
    let builds = container(Workload::Staging)?;
    connects(builds.namespace(), at(staging, 80))?;
    is_refused(builds.namespace(), at(running, 80))
}

/// A group that is bound opens the way for containers that run already and for later ones.
pub(crate) fn take_effect_at_once(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let outside = at(fresh_address(), 8080);
    let host = case.outside()?;
    let _servers = (host.serve_http("outside", outside)?, host.serve_udp(outside)?);
    is_refused(from, outside)?;
    is_refused_udp(from, outside)?;
    let _open =
        case.open(&[GroupRule::tcp(outside.ip(), "8080"), GroupRule::udp(outside.ip(), "8080")])?;
    let later = case.world.attach_as(0, &case.spec()?)?;
    for namespace in [from, later.namespace()] {
        let greeting = curl(namespace, outside)?;
        ensure!(greeting.contains(&case.cell_address().to_string()), "{greeting}");
        is_answered(namespace, outside, case.cell_address())?;
    }
    // Other spaces have nothing of it.
    let other = case.world.attach(0, Some(&case.world.take_app()?.id))?;
    is_refused(other.namespace(), outside)
}

/// After a group is gone new connections are refused; one that is open lives on, across many
/// packets each way.
pub(crate) fn leave_conversations_when_they_go(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let outside = at(fresh_address(), 8080);
    let _server = case.outside()?.serve_http("outside", outside)?;
    let open = case.open(&[GroupRule::tcp(outside.ip(), "8080")])?;
    let mut conversation = from.http(outside, PATIENCE)?;
    conversation.greeting()?;
    drop(open);
    eventually(PATIENCE, || is_refused(from, outside))?;
    for _ in 0..3 {
        conversation.download(1 << 20)?;
        conversation.upload(1 << 20)?;
        is_refused(from, outside)?;
    }
    Ok(())
}

/// A rule for ICMP admits its type and code alone; -1 stands for any, and nothing for echo
/// replies.
pub(crate) fn icmp_types_are_exact(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    let address = fresh_address();
    let unnamed = GroupRule { icmp: None, ..GroupRule::icmp(address, 0, 0) };
    for (rule, admits_echo) in [
        (GroupRule::icmp(address, 8, 0), true),
        (GroupRule::icmp(address, -1, -1), true),
        (GroupRule::all(address), true),
        (GroupRule::icmp(address, 8, 1), false),
        (GroupRule::icmp(address, 13, 0), false),
        (unnamed, false),
        (GroupRule::tcp(address, "1-65535"), false),
    ] {
        let _open = case.open(std::slice::from_ref(&rule))?;
        let (answered, text) = ping(from, address, &[])?;
        ensure!(answered == admits_echo, "{rule:?}: {text}");
        ensure!(answered || text.contains("Port Unreachable"), "{rule:?}: {text}");
    }
    Ok(())
}

/// A rule may have several destinations - addresses, networks, ranges - and several ports and
/// ranges of ports. It admits both ends of each and nothing outside.
pub(crate) fn lists_and_ranges_are_honoured(case: &Case) -> Result<()> {
    let from = case.container.namespace();
    // Destinations overlap those of no other check: nobody else uses this network.
    let address = |number| OutsideHost::address(network::NARROW, number);
    let (single, range, subnet) = (address(1), [address(10), address(20)], address(64));
    let destination = format!("{single},{}-{},{subnet}/28", range[0], range[1]);
    let _open = case.open(&[
        GroupRule::tcp(&destination, "80,443, 8000-9000"),
        GroupRule::udp(&destination, "53,5000-5001"),
    ])?;
    let host = case.outside()?;
    let inside = [address(1), address(10), address(15), address(20), address(64), address(79)];
    let outside = [address(0), address(2), address(9), address(21), address(63), address(80)];
    for (admitted, addresses) in [(true, inside), (false, outside)] {
        for target in addresses.map(|address| at(address, 443)) {
            let _server = host.serve_http("outside", target)?;
            if admitted { connects(from, target)? } else { is_refused(from, target)? }
        }
    }
    for (admitted, ports) in
        [(true, &[80, 8000, 8500, 9000][..]), (false, &[79, 81, 7999, 9001, 53])]
    {
        for target in ports.iter().map(|&port| at(address(15), port)) {
            let _server = host.serve_http("outside", target)?;
            if admitted { connects(from, target)? } else { is_refused(from, target)? }
        }
    }
    for (admitted, ports) in [(true, &[53, 5000, 5001][..]), (false, &[52, 54, 4999, 5002, 80])] {
        for target in ports.iter().map(|&port| at(address(15), port)) {
            let _server = host.serve_udp(target)?;
            if admitted {
                is_answered(from, target, case.cell_address())?;
            } else {
                is_refused_udp(from, target)?;
            }
        }
    }
    Ok(())
}

/// Networks that are denied to all, to running containers or to staging ones are refused although
/// a group admits everything.
pub(crate) fn denied_networks_come_first(case: &Case) -> Result<()> {
    let everything = [GroupRule::all(ANYWHERE)];
    let name = format!("{}-staging", case.space);
    let _groups = (
        case.open(&everything)?,
        case.bind(SecurityGroup::staging(&name, &case.space, &everything))?,
    );
    let host = case.outside()?;
    let _server = host.serve_http("outside", at(Ipv4Addr::UNSPECIFIED, 4343))?;
    let networks = [network::DENIED, network::DENIED_RUNNING, network::DENIED_STAGING];
    for (workload, denied) in [
        (Workload::App, [true, true, false]),
        (Workload::Task, [true, true, false]),
        (Workload::Staging, [true, false, true]),
    ] {
        let container = case.world.attach_as(0, &case.spec()?.workload(workload))?;
        let from = container.namespace();
        connects(from, at(fresh_address(), 4343))?;
        for (network, denied) in networks.into_iter().zip(denied) {
            for number in [0, 15] {
                let to = at(OutsideHost::address(network, number), 4343);
                let result = if denied { is_refused(from, to) } else { connects(from, to) };
                result.with_context(|| format!("{workload:?}"))?;
            }
        }
    }
    Ok(())
}

/// What is not admitted is refused with ICMP port unreachable: a connect fails at once, a datagram
/// is answered with an error, and the error quotes what was sent.
pub(crate) fn refuse_with_port_unreachable(case: &Case) -> Result<()> {
    let from = &case.container;
    let target = at(fresh_address(), 8080);
    let host = case.outside()?;
    let _servers = (host.serve_http("outside", target)?, host.serve_udp(target)?);
    let capture = Capture::start(from.namespace(), "eth0")?;
    is_refused(from.namespace(), target)?;
    is_refused_udp(from.namespace(), target)?;
    for protocol in [6, 17] {
        eventually(PATIENCE, || {
            let told =
                capture.frames().iter().any(|frame| is_refusal(frame, from, target, protocol));
            ensure!(told, "no ICMP port unreachable for protocol {protocol} to {target}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether it is an ICMP port unreachable to this container about a packet that it sent to this
/// target. Behind an Ethernet header, or not, as the container's interface has it.
fn is_refusal(frame: &Frame, to: &Container, target: SocketAddrV4, protocol: u8) -> bool {
    let ends = [to.address().octets(), target.ip().octets()].concat();
    [0, 14].into_iter().filter_map(|start| frame.bytes.get(start..)).any(|packet| {
        let [icmp, quote] = [20, 28].map(|at| packet.get(at..).unwrap_or_default());
        packet.first().is_some_and(|byte| byte >> 4 == 4)
            && packet.get(9) == Some(&1)
            && packet.get(16..20) == Some(&to.address().octets())
            && icmp.starts_with(&[3, 3])
            && quote.get(9) == Some(&protocol)
            && quote.get(12..20) == Some(&ends)
            && quote.get(22..24) == Some(&target.port().to_be_bytes())
    })
}
