//! What is printed on success (specification 1.1.0, section 5 "Result types").

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_agent_api::Attachment;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Code, Failure};
use crate::previous::Previous;
use crate::runtime::Dns;
use crate::version::Version;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
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

/// The convention for DNS in results; what is empty is left out.
#[derive(Serialize)]
struct ResultDns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

/// The result of ADD: what the plugins before have made, and what was made here after it. Name
/// servers are those of `dns`, or the agent's when it has none.
pub(crate) fn added(
    version: Version,
    netns: &str,
    attachment: &Attachment,
    dns: Dns,
    previous: Option<&Previous>,
) -> Result<String, Failure> {
    let mut result = previous.cloned().unwrap_or_default();
    let interfaces = result.interfaces.get_or_insert_default();
    let mtu = version.has_mtu().then_some(attachment.mtu);
    if let Some(host) = &attachment.host {
        let mac = Some(mac(host.mac));
        interfaces.push(value(&Interface { name: &host.name, mac, mtu, sandbox: None })?);
    }
    let interface = interfaces.len();
    interfaces.push(value(&Interface {
        name: &attachment.id.ifname,
        mac: attachment.mac.map(mac),
        mtu,
        sandbox: Some(netns),
    })?);
    let gateway = attachment.host.as_ref().map(|host| host.gateway);
    let address = Ipv4Net::from(attachment.address);
    let family = version.has_families().then_some("4");
    let ip = Ip { version: family, address, gateway, interface };
    result.ips.get_or_insert_default().push(value(&ip)?);
    let routes = result.routes.get_or_insert_default();
    for &dst in &attachment.routes {
        routes.push(value(&Route { dst, gw: gateway })?);
    }
    let nameservers = if dns.servers.is_empty() {
        attachment.name_servers.iter().map(ToString::to_string).collect()
    } else {
        dns.servers
    };
    let Dns { domain, searches: search, options, .. } = dns;
    let own = value(&ResultDns { nameservers, domain, search, options })?;
    if let Value::Object(own) = own {
        result.dns.get_or_insert_with(Map::new).extend(own);
    }
    passed(version, result)
}

/// A result that goes on to the next plugin.
pub(crate) fn passed(version: Version, mut result: Previous) -> Result<String, Failure> {
    result.rest.insert("cniVersion".into(), version.name().into());
    value(&result).map(|result| result.to_string())
}

/// The result of VERSION.
pub(crate) fn versions(version: Version) -> String {
    let supported = Version::ALL.map(Version::name);
    json!({"cniVersion": version.name(), "supportedVersions": supported}).to_string()
}

fn value(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(|error| Failure::new(Code::Decode, "encode the result", error))
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
