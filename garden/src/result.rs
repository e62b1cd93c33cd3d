//! What Garden wants to know of a result, in any version of the specification.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use sarcenet_cni_chain::Version;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::actions::IFNAME;

/// Address, interface and name servers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The first IPv4 address.
    pub(crate) address: Ipv4Addr,
    /// Name of the interface that has it.
    pub(crate) interface: String,
    /// As they came; may be empty.
    pub(crate) name_servers: Vec<String>,
}

/// Why a result is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResultError {
    #[error("cni plugin result version incompatible: unsupported CNI result version {0:?}")]
    Version(String),
    #[error("cni plugin result version incompatible: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("expected an IPv4 address in the CNI result")]
    NoAddress,
    #[error(
        "no corresponding interface found, interface index: {index}, \
         number of interfaces: {count}"
    )]
    NoInterface { index: usize, count: usize },
}

/// All versions together: `ip4` is in those before 0.3.0, the other lists are in the later ones.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    cni_version: String,
    ip4: Option<Ip4>,
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Ip>>,
    dns: Option<Dns>,
}

#[derive(Debug, Deserialize)]
struct Ip4 {
    ip: IpNet,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: IpNet,
    interface: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Dns {
    nameservers: Option<Vec<String>>,
}

impl Answer {
    /// Reads a result that has a version.
    pub(crate) fn read(result: Map<String, Value>) -> Result<Self, ResultError> {
        let raw: Raw = serde_json::from_value(Value::Object(result))?;
        let Some(version) = Version::read(&raw.cni_version) else {
            return Err(ResultError::Version(raw.cni_version));
        };
        let (address, index) = if version.has_ip4() {
            (raw.ip4.as_ref().and_then(|ip4| four(ip4.ip)), None)
        } else {
            let ips = raw.ips.iter().flatten();
            let mut ips = ips.filter_map(|ip| Some((four(ip.address)?, ip.interface)));
            ips.next().map_or((None, None), |(address, index)| (Some(address), index))
        };
        let address = address.ok_or(ResultError::NoAddress)?;
        // A result need not say which interface an address belongs to; then it is the one that was
        // asked for.
        let interface = match index {
            None => IFNAME.to_owned(),
            Some(index) => {
                let interfaces = raw.interfaces.unwrap_or_default();
                let count = interfaces.len();
                let found = interfaces.into_iter().nth(index);
                found.ok_or(ResultError::NoInterface { index, count })?.name
            }
        };
        let name_servers = raw.dns.and_then(|dns| dns.nameservers).unwrap_or_default();
        Ok(Self { address, interface, name_servers })
    }
}

fn four(address: IpNet) -> Option<Ipv4Addr> {
    match address {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_versions_are_read() {
        for (result, expected) in [
            (
                r#"{"cniVersion":"1.0.0",
                    "interfaces":[{"name":"s-1"},{"name":"eth7","sandbox":"/n"}],
                    "ips":[{"address":"10.255.73.3/32","interface":1}],
                    "dns":{"nameservers":["169.254.0.2"]}}"#,
                Ok("10.255.73.3 eth7 169.254.0.2"),
            ),
            (
                r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],
                    "ips":[{"address":"fd00::3/64","interface":0},
                        {"address":"10.1.1.2/24","interface":0}]}"#,
                Ok("10.1.1.2 eth0 "),
            ),
            (
                r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],
                    "ips":[{"version":"4","address":"10.1.1.2/24","interface":0}],"dns":{}}"#,
                Ok("10.1.1.2 eth0 "),
            ),
            (
                r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.1.2/24"}]}"#,
                Ok("10.1.1.2 eth0 "),
            ),
            (
                r#"{"cniVersion":"0.2.0","ip4":{"ip":"169.254.1.2/24"},
                    "dns":{"nameservers":["1.2.3.4","5.6.7.8"]}}"#,
                Ok("169.254.1.2 eth0 1.2.3.4,5.6.7.8"),
            ),
            (
                r#"{"cniVersion":"0.1.0","ips":[{"address":"10.1.1.2/24"}]}"#,
                Err("expected an IPv4 address in the CNI result"),
            ),
            (r#"{"cniVersion":"1.0.0"}"#, Err("expected an IPv4 address in the CNI result")),
            (
                r#"{"cniVersion":"1.0.0","ips":[{"address":"fd00::3/64"}]}"#,
                Err("expected an IPv4 address in the CNI result"),
            ),
            (
                r#"{"cniVersion":"1.0.0","interfaces":[{"name":"a"}],
                    "ips":[{"address":"10.1.1.2/24","interface":1}]}"#,
                Err(
                    "no corresponding interface found, interface index: 1, number of interfaces: 1",
                ),
            ),
            (
                r#"{"cniVersion":"2.0.0","ips":[]}"#,
                Err("cni plugin result version incompatible: unsupported CNI result version \
                     \"2.0.0\""),
            ),
            (
                r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.1.2"}]}"#,
                Err("cni plugin result version incompatible: invalid IP address syntax"),
            ),
        ] {
            let answer = Answer::read(serde_json::from_str(result).unwrap());
            let told = answer.map(|Answer { address, interface, name_servers }| {
                format!("{address} {interface} {}", name_servers.join(","))
            });
            let told = told.map_err(|error| error.to_string());
            assert_eq!(
                told,
                expected.map(ToOwned::to_owned).map_err(ToOwned::to_owned),
                "{result}"
            );
        }
    }
}
