//! Rules for traffic to the outside in the form in which Garden writes them, as JSON (contract
//! section 7.1).

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::PortRange;
use serde::Deserialize;

use crate::{AddressRange, IcmpControl, NetOutRule};

/// A rule as it was read; [`NetOutRule::try_from`] makes one for the agent of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GardenRule {
    #[serde(default)]
    protocol: u8,
    #[serde(default)]
    networks: Option<Vec<GardenNetwork>>,
    #[serde(default)]
    ports: Option<Vec<GardenPorts>>,
    icmps: Option<GardenIcmp>,
    #[serde(default)]
    log: bool,
}

/// Either end may be left out when the range is one address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct GardenNetwork {
    start: Option<String>,
    end: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct GardenPorts {
    start: u16,
    end: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct GardenIcmp {
    #[serde(rename = "type", default)]
    kind: u8,
    code: Option<u8>,
}

/// Why a rule has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GardenRuleError {
    /// One end of a network.
    #[error("invalid ip: {0}")]
    Address(String),
}

impl TryFrom<&GardenRule> for NetOutRule {
    type Error = GardenRuleError;

    fn try_from(rule: &GardenRule) -> Result<Self, GardenRuleError> {
        let address = |text: &str| {
            text.parse::<Ipv4Addr>().map_err(|_| GardenRuleError::Address(text.to_owned()))
        };
        let network = |network: &GardenNetwork| {
            let ends = [&network.start, &network.end].map(|end| end.as_deref().unwrap_or_default());
            let [start, end] = match ends {
                [start, ""] => [start, start],
                ["", end] => [end, end],
                both => both,
            };
            Ok(AddressRange { first: address(start)?, last: address(end)? })
        };
        let ports = |ports: &GardenPorts| PortRange {
            first: ports.start,
            last: ports.end.filter(|end| *end != 0).unwrap_or(ports.start),
        };
        Ok(Self {
            protocol: rule.protocol,
            networks: rule.networks.iter().flatten().map(network).collect::<Result<_, _>>()?,
            ports: rule.ports.iter().flatten().map(ports).collect(),
            icmp: rule.icmps.as_ref().map(|icmp| IcmpControl { kind: icmp.kind, code: icmp.code }),
            log: rule.log,
        })
    }
}
