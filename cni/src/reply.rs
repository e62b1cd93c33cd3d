//! What is printed on success (specification 1.1.0, section 5 "Result types").

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_agent_api::Attachment;
use serde::Serialize;

use crate::netconf::{VERSION_1_1, VERSIONS};
use crate::runtime::Dns;

/// The result of ADD.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AddResult<'a> {
    cni_version: &'a str,
    interfaces: Vec<Interface<'a>>,
    ips: [Ip; 1],
    routes: Vec<Route>,
    dns: ResultDns,
}

#[derive(Serialize)]
struct Interface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    /// None for an interface of the cell.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

#[derive(Serialize)]
struct Ip {
    address: Ipv4Net,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Ipv4Addr>,
    interface: usize,
}

#[derive(Serialize)]
struct Route {
    dst: Ipv4Net,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<Ipv4Addr>,
}

/// The convention for DNS in results; empty lists are left out.
#[derive(Serialize)]
struct ResultDns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

/// The result of ADD. Name servers are those of `dns`, or the agent's when it has none.
pub(crate) fn added(version: &str, netns: &str, attachment: &Attachment, dns: Dns) -> String {
    let mtu = (version == VERSION_1_1).then_some(attachment.mtu);
    let mut interfaces = Vec::new();
    if let Some(host) = &attachment.host {
        let mac = Some(mac(host.mac));
        interfaces.push(Interface { name: &host.name, mac, mtu, sandbox: None });
    }
    let interface = interfaces.len();
    interfaces.push(Interface {
        name: &attachment.id.ifname,
        mac: attachment.mac.map(mac),
        mtu,
        sandbox: Some(netns),
    });
    let nameservers = if dns.servers.is_empty() {
        attachment.name_servers.iter().map(ToString::to_string).collect()
    } else {
        dns.servers
    };
    let gateway = attachment.host.as_ref().map(|host| host.gateway);
    let result = AddResult {
        cni_version: version,
        interfaces,
        ips: [Ip { address: host(attachment.address), gateway, interface }],
        routes: attachment.routes.iter().map(|&dst| Route { dst, gw: gateway }).collect(),
        dns: ResultDns { nameservers, search: dns.searches, options: dns.options },
    };
    serde_json::json!(result).to_string()
}

/// The result of VERSION.
pub(crate) fn versions(version: &str) -> String {
    serde_json::json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string()
}

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
