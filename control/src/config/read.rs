//! From the tree to [`Network`]: types, required and unknown keys.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AppInfo, Policy, parse_ports, parse_protocol};
use sarcenet_dataplane_api::{PortRange, Revoke, Tracking, UplinkMode};
use sarcenet_server::leases::pool::hardware_address;

use super::follow::FollowParts;
use super::groups::GroupParts;
use super::outside::OutsideSpec;
use super::reader::Reader;
use super::tree::{At, Node};
use super::{
    CellSpec, DEFAULT_COLLECT_AFTER, DEFAULT_PORT, DEFAULT_STATUS, DEFAULT_VNI, Mistake, Network,
    check, tree,
};

/// Longest `collect_after` in seconds: a day.
const COLLECT_AFTER_MAX: i128 = 86_400;

/// The parts of a network file that could be read, each with its place.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) overlay: Option<At<Ipv4Net>>,
    pub(super) cells: Vec<At<CellParts>>,
    pub(super) apps: Vec<At<AppParts>>,
    pub(super) policies: Vec<At<PolicyParts>>,
    pub(super) vni: Option<u32>,
    pub(super) port: Option<u16>,
    pub(super) mtu: Option<u16>,
    pub(super) revoke: Option<Revoke>,
    pub(super) uplink: Option<UplinkMode>,
    pub(super) outside: Option<At<OutsideSpec>>,
    pub(super) security_groups: Option<Vec<At<GroupParts>>>,
    pub(super) tracking: Tracking,
    pub(super) open_overlay: bool,
    pub(super) control: Option<At<FollowParts>>,
    pub(super) status: Option<SocketAddr>,
    pub(super) collect_after: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct CellParts {
    pub(super) name: Option<At<String>>,
    pub(super) underlay: Option<At<Ipv4Addr>>,
    pub(super) subnet: Option<At<Ipv4Net>>,
}

#[derive(Debug)]
pub(super) struct AppParts {
    pub(super) id: Option<At<String>>,
    pub(super) tag: Option<At<u16>>,
}

#[derive(Debug)]
pub(super) struct PolicyParts {
    pub(super) from: Option<At<String>>,
    pub(super) to: Option<At<String>>,
    pub(super) protocol: Option<sarcenet_dataplane_api::Protocol>,
    pub(super) ports: Option<PortRange>,
}

/// Reads a whole file.
pub(super) fn network(text: &str) -> Result<Network, Vec<Mistake>> {
    let root = tree::read(text).map_err(|mistake| vec![mistake])?;
    let mut reader = Reader { mistakes: Vec::new() };
    let parts = reader.network(root);
    check::contradictions(&parts, &mut reader.mistakes);
    match assemble(parts) {
        Some(network) if reader.mistakes.is_empty() => Ok(network),
        _ => {
            reader.mistakes.sort();
            Err(reader.mistakes)
        }
    }
}

/// Succeeds when no part is missing.
fn assemble(parts: Parts) -> Option<Network> {
    let cells = parts.cells.into_iter().map(|At { value: cell, .. }| {
        let (name, underlay, subnet) = (cell.name?, cell.underlay?, cell.subnet?);
        let mac = hardware_address(subnet.value);
        Some(CellSpec { name: name.value, underlay: underlay.value, subnet: subnet.value, mac })
    });
    let apps = parts
        .apps
        .into_iter()
        .map(|At { value: app, .. }| Some(AppInfo { id: app.id?.value, tag: app.tag?.value }));
    let policies = parts.policies.into_iter().map(|At { value: policy, .. }| {
        let (from, to) = (policy.from?.value, policy.to?.value);
        Some(Policy { from, to, protocol: policy.protocol?, ports: policy.ports? })
    });
    Some(Network {
        overlay: parts.overlay?.value,
        cells: cells.collect::<Option<_>>()?,
        apps: apps.collect::<Option<_>>()?,
        policies: policies.collect::<Option<_>>()?,
        vni: parts.vni.unwrap_or(DEFAULT_VNI),
        port: parts.port.unwrap_or(DEFAULT_PORT),
        mtu: parts.mtu,
        revoke: parts.revoke.unwrap_or_default(),
        uplink: parts.uplink.unwrap_or_default(),
        outside: parts.outside.map(|outside| outside.value),
        security_groups: parts
            .security_groups
            .map(|groups| Arc::new(groups.into_iter().map(|group| group.value.group).collect())),
        tracking: parts.tracking,
        open_overlay: parts.open_overlay,
        router_tag: None,
        own_tag: None,
        control: parts.control.map(|control| control.value.spec),
        status: parts.status,
        collect_after: parts.collect_after,
    })
}

impl Reader {
    fn network(&mut self, root: At<Node>) -> Parts {
        let known = [
            "overlay",
            "cells",
            "apps",
            "policies",
            "vni",
            "port",
            "mtu",
            "revoke",
            "uplink",
            "outside",
            "security_groups",
            "timeouts",
            "half_open_percent",
            "open_overlay",
            "control",
            "status",
            "collect_after",
        ];
        let Some(mut top) = self.map(root, "the network file", &known) else {
            return Parts::default();
        };
        let overlay = self.required(&mut top, "overlay", "10.255.0.0/16");
        let mut overlay = overlay.and_then(|node| self.network_address(node, "overlay"));
        let followed = top.take("control");
        let cells = if followed.is_some() {
            overlay = overlay.and_then(|overlay| self.private(overlay));
            for key in ["cells", "apps", "policies"] {
                if let Some(At { place, .. }) = top.take(key) {
                    let message = format!("{key} come from servers with `control:`; remove one");
                    self.wrong(place, message);
                }
            }
            None
        } else {
            let example = "[{name: cell1, underlay: 10.0.0.11, subnet: 10.255.1.0/24}]";
            self.required(&mut top, "cells", example)
        };
        Parts {
            overlay,
            cells: self.each(cells, "cells", Self::cell),
            apps: self.each(top.take("apps"), "apps", Self::app),
            policies: self.each(top.take("policies"), "policies", Self::policy),
            vni: top.take("vni").and_then(|node| {
                self.number(node, "vni", 0..=0xff_ffff, "24 bits").map(|vni| vni.value as u32)
            }),
            port: top.take("port").and_then(|node| {
                self.number(node, "port", 1..=65535, "a UDP port").map(|port| port.value as u16)
            }),
            mtu: top.take("mtu").and_then(|node| {
                let hint = "bytes of the largest inner IP packet: the underlay's MTU - 50";
                self.number(node, "mtu", 576..=65485, hint).map(|mtu| mtu.value as u16)
            }),
            revoke: top.take("revoke").and_then(|node| self.revoke(node)),
            uplink: top.take("uplink").and_then(|node| self.uplink(node)),
            outside: top.take("outside").and_then(|node| self.outside(node)),
            security_groups: top
                .take("security_groups")
                .map(|node| self.each(Some(node), "security_groups", Self::security_group)),
            tracking: self.tracking(top.take("timeouts"), top.take("half_open_percent")),
            open_overlay: top
                .take("open_overlay")
                .and_then(|node| self.flag(node, "open_overlay"))
                .unwrap_or(false),
            control: followed.and_then(|node| {
                let place = node.place;
                self.follow(node).map(|value| At { place, value })
            }),
            status: match top.take("status") {
                None => Some(DEFAULT_STATUS),
                Some(At { value: Node::Null, .. }) => None,
                Some(node) => self.socket_address(node, "status").map(|address| address.value),
            },
            collect_after: match top.take("collect_after") {
                None => Some(DEFAULT_COLLECT_AFTER),
                Some(At { value: Node::Null, .. }) => None,
                Some(node) => self.collect_after(node),
            },
        }
    }

    fn cell(&mut self, node: At<Node>) -> Option<CellParts> {
        let mut entry = self.map(node, "a cell", &["name", "underlay", "subnet"])?;
        let name = self.required(&mut entry, "name", "cell1");
        let underlay = self.required(&mut entry, "underlay", "10.0.0.11");
        let subnet = self.required(&mut entry, "subnet", "10.255.1.0/24");
        Some(CellParts {
            name: name.and_then(|node| self.name(node, "the name of a cell")),
            underlay: underlay.and_then(|node| self.underlay(node)),
            subnet: subnet.and_then(|node| self.network_address(node, "subnet")),
        })
    }

    fn app(&mut self, node: At<Node>) -> Option<AppParts> {
        let mut entry = self.map(node, "an app", &["id", "tag"])?;
        let id = self.required(&mut entry, "id", "app-a");
        let tag = self.required(&mut entry, "tag", "1");
        Some(AppParts {
            id: id.and_then(|node| self.name(node, "the id of an app")),
            tag: tag.and_then(|node| {
                let hint = "the 16 bits of the tunnel header, without 0, which means no tag";
                let tag = self.number(node, "tag", 1..=65535, hint)?;
                Some(At { place: tag.place, value: tag.value as u16 })
            }),
        })
    }

    fn policy(&mut self, node: At<Node>) -> Option<PolicyParts> {
        let mut entry = self.map(node, "a policy", &["from", "to", "protocol", "ports"])?;
        let from = self.required(&mut entry, "from", "app-a");
        let to = self.required(&mut entry, "to", "app-b");
        let protocol = self.required(&mut entry, "protocol", "tcp");
        let ports = self.required(&mut entry, "ports", "8080");
        Some(PolicyParts {
            from: from.and_then(|node| self.name(node, "the id of an app")),
            to: to.and_then(|node| self.name(node, "the id of an app")),
            protocol: protocol.and_then(|node| {
                let text = self.text(node, "protocol")?;
                parse_protocol(&text.value).map_err(|e| self.wrong(text.place, e.to_string())).ok()
            }),
            ports: ports.and_then(|At { place, value }| {
                let text = match value {
                    Node::Integer(port) => port.to_string(),
                    Node::Text(text) => text,
                    other => {
                        let kind = other.kind();
                        self.wrong(place, format!("ports is {kind}; write 8080 or 7000-8000"));
                        return None;
                    }
                };
                parse_ports(&text).map_err(|e| self.wrong(place, e.to_string())).ok()
            }),
        })
    }

    pub(super) fn underlay(&mut self, node: At<Node>) -> Option<At<Ipv4Addr>> {
        let At { place, value } = self.text(node, "underlay")?;
        match value.parse::<Ipv4Addr>() {
            Ok(address)
                if !(address.is_unspecified()
                    || address.is_multicast()
                    || address.is_broadcast()) =>
            {
                Some(At { place, value: address })
            }
            _ => {
                let what = "the cell's own IPv4 address, e.g. 10.0.0.11, without a prefix length";
                self.wrong(place, format!("underlay `{value}` is not {what}"));
                None
            }
        }
    }

    /// None for 0 as for null: never.
    fn collect_after(&mut self, node: At<Node>) -> Option<Duration> {
        let hint = "seconds from a container's end until it is removed; 0 for never";
        let seconds = self.number(node, "collect_after", 0..=COLLECT_AFTER_MAX, hint)?;
        u64::try_from(seconds.value).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    fn uplink(&mut self, node: At<Node>) -> Option<UplinkMode> {
        let text = self.text(node, "uplink")?;
        let mode = UplinkMode::named(&text.value);
        if mode.is_none() {
            let hint = "use auto (the dataplane tries what is best), udp, tunnel-gso or xdp";
            self.wrong(text.place, format!("uplink `{}` is not known; {hint}", text.value));
        }
        mode
    }

    fn revoke(&mut self, node: At<Node>) -> Option<Revoke> {
        let text = self.text(node, "revoke")?;
        match text.value.as_str() {
            "drain" => Some(Revoke::Drain),
            "immediate" => Some(Revoke::Immediate),
            other => {
                let hint = "use drain (established conversations live on) or immediate";
                self.wrong(text.place, format!("revoke `{other}` is not known; {hint}"));
                None
            }
        }
    }
}
