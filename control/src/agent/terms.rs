//! What a runtime says about a container: whether it can be had.

use std::net::Ipv4Addr;

use sarcenet_agent_api::{
    CellTerms, ErrorCode, HostService, Mapping, PortRange, Protocol, Rate, Terms, ranges,
};
use sarcenet_dataplane_api::{MAX_EGRESS_RULES, MAX_MAPPINGS};
use tracing::warn;

use super::{Failure, Inner};
use crate::config::{LIST_MAX, Network};
use crate::egress::check_net_out;
use crate::state::Saved;

/// Longest metadata of a container, all texts together, in bytes.
const METADATA_MAX: usize = 32 << 10;

/// Looks at the terms by themselves.
pub(super) fn check(saved: &Saved) -> Result<(), Failure> {
    let wrong = |message: String| Err(Failure::new(ErrorCode::Invalid, message));
    let Terms { metadata, mappings, net_out, bandwidth, cell } = &*saved.terms;
    let texts = [
        &metadata.app_id,
        &metadata.policy_group_id,
        &metadata.space_id,
        &metadata.org_id,
        &metadata.ports,
        &metadata.container_workload,
        &metadata.log_config,
    ];
    if texts.iter().filter_map(|text| Some(text.as_ref()?.len())).sum::<usize>() > METADATA_MAX {
        return wrong(format!("its metadata is longer than {METADATA_MAX} bytes"));
    }
    let CellTerms { services, not_masqueraded } = cell;
    if services.len().max(not_masqueraded.len()) > LIST_MAX {
        return wrong(format!(
            "more than {LIST_MAX} services of the cell, or networks without masquerade"
        ));
    }
    // The dataplane would refuse the whole state for one of these.
    let reached = |address: Ipv4Addr| {
        let ends_here = address.is_unspecified() || address.is_loopback();
        !(ends_here || address.is_broadcast() || address.is_multicast())
    };
    if let Some(wrong_one) = services.iter().find(|one| one.port == 0 || !reached(one.address)) {
        let HostService { address, port, .. } = wrong_one;
        return wrong(format!("{address}:{port} cannot be a service of the cell"));
    }
    if let Some(net) = not_masqueraded.iter().find(|net| net.addr() != net.network()) {
        return wrong(format!("{net} has host bits set; the network is {}", net.trunc()));
    }
    for mapping in mappings {
        if mapping.host_port == 0 {
            return wrong("cannot allocate port 0: give the host port a number".into());
        }
        if mapping.container_port == 0 {
            return wrong(format!(
                "host port {} cannot lead to port 0 of the container",
                mapping.host_port
            ));
        }
    }
    let mapped = ranges(mappings);
    if mapped.len() > MAX_MAPPINGS {
        let count = mapped.len();
        return wrong(format!(
            "{count} ranges of mapped ports, at most {MAX_MAPPINGS} are possible"
        ));
    }
    // Ranges are sorted, and each port of the list is in one of them.
    if let Some(pair) = mapped.windows(2).find(|pair| overlap(pair[0], pair[1])) {
        let port = pair[1].cell.first;
        return wrong(format!("host port {port}/{} is mapped twice", pair[1].protocol));
    }
    for (rate, name) in [(bandwidth.send, "egress"), (bandwidth.receive, "ingress")] {
        if let Some(Rate { bits_per_second: 0, .. } | Rate { burst_bits: 0, .. }) = rate {
            return wrong(format!("{name}Rate and {name}Burst must both be set, or neither"));
        }
    }
    let checked = check_net_out(net_out).map_err(|(number, e)| {
        Failure::new(ErrorCode::Invalid, format!("rule {number} of netOutRules: {e}"))
    })?;
    if checked.rules > MAX_EGRESS_RULES {
        return wrong(format!(
            "netOutRules are {} rules, each network with each range of ports counted; at most \
             {MAX_EGRESS_RULES} are possible",
            checked.rules
        ));
    }
    for (number, e) in checked.left_out {
        warn!(container = %saved.id, "rule {number} of netOutRules is left out: {e}");
    }
    Ok(())
}

fn overlap(one: Mapping, other: Mapping) -> bool {
    one.protocol == other.protocol
        && one.cell.first <= other.cell.last
        && other.cell.first <= one.cell.last
}

/// Why the cell cannot give a container these ports, if so.
pub(super) fn collision(network: &Network, mappings: &[Mapping]) -> Option<String> {
    let outside = network.outside.as_ref()?;
    let snat = outside.snat_ports;
    mappings.iter().find_map(|Mapping { protocol, cell: ports, .. }| {
        let PortRange { first, last } = *ports;
        if *protocol == Protocol::Udp && ports.contains(network.port) {
            return Some(format!("host port {}/udp is that of the tunnel", network.port));
        }
        (first <= snat.last && snat.first <= last).then(|| {
            format!(
                "host port {ports}/{protocol} lies in snat_ports {snat}, which the cell needs \
                 itself; map another port, or change snat_ports in the network file"
            )
        })
    })
}

/// Whether the cell can give `saved` its ports, beside all others.
pub(super) fn check_ports(inner: &Inner, saved: &Saved) -> Result<(), Failure> {
    if saved.terms.mappings.is_empty() {
        return Ok(());
    }
    if inner.network.outside.is_none() {
        let message = "ports of the cell can be mapped only where there is a way to the outside; \
                       add `outside: {}` to the network file";
        return Err(Failure::new(ErrorCode::Config, message));
    }
    let wanted = ranges(&saved.terms.mappings);
    let wrong = |message: String| Err(Failure::new(ErrorCode::Invalid, message));
    if let Some(message) = collision(&inner.network, &wanted) {
        return wrong(message);
    }
    let others = inner.containers.values().filter(|entry| entry.saved.id != saved.id);
    for other in others {
        for taken in ranges(&other.saved.terms.mappings) {
            if let Some(mapping) = wanted.iter().find(|mapping| overlap(**mapping, taken)) {
                let port = mapping.cell.first.max(taken.cell.first);
                return wrong(format!(
                    "host port {port}/{} is mapped to container {} already",
                    taken.protocol, other.saved.id
                ));
            }
        }
    }
    Ok(())
}
