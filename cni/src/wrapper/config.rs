//! The wrapper's keys (contract sections 6.1 and 7.1).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{CellTerms, HostService, Protocol};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::store::Store;
use crate::failure::{Code, Failure};
use crate::netconf::{decode, mtu};

/// Port of name servers.
const DNS: u16 = 53;

/// The keys that mean something here, and those that must be there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    datastore: String,
    datastore_file_owner: String,
    datastore_file_group: String,
    iptables_lock_file: String,
    instance_address: String,
    no_masquerade_cidr_range: String,
    underlay_ips: Vec<String>,
    temporary_underlay_interface_names: Vec<String>,
    iptables_denied_logs_per_sec: i64,
    iptables_accepted_udp_logs_per_sec: i64,
    ingress_tag: String,
    vtep_name: String,
    policy_agent_force_poll_address: String,
    dns_servers: Vec<String>,
    host_tcp_services: Vec<String>,
    host_udp_services: Vec<String>,
    outbound_connections: OutboundConnections,
    delegate: Delegate,
    metadata: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct OutboundConnections {
    limit: bool,
    burst: i64,
    rate_per_sec: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delegate {
    #[serde(rename = "type")]
    kind: String,
    mtu: Option<i64>,
}

impl Default for OutboundConnections {
    fn default() -> Self {
        Self { limit: false, burst: 1, rate_per_sec: 1 }
    }
}

/// A wrapper's configuration without mistakes.
#[derive(Debug)]
pub(crate) struct Wrapper {
    datastore: String,
    owner: String,
    group: String,
    dns_servers: Vec<String>,
    /// What containers see of the cell, and what sees their own addresses.
    pub(crate) cell: CellTerms,
    /// MTU of the container's interface, if it is not the cell's.
    pub(crate) mtu: Option<u16>,
    /// Where the policy agent is told to ask at once.
    pub(crate) policy_agent: Option<String>,
    /// What the platform says of the container, with keys that mean nothing here.
    pub(crate) metadata: Option<Map<String, Value>>,
}

impl Wrapper {
    pub(crate) fn read(input: &[u8]) -> Result<Self, Failure> {
        let raw: Raw = decode(input)?;
        raw.check()?;
        let no_masquerade = &raw.no_masquerade_cidr_range;
        let not_masqueraded = match no_masquerade.as_str() {
            "" => Vec::new(),
            text => {
                let net = text.parse::<Ipv4Net>().map_err(|_| {
                    let why = format!("`{text}` is no network");
                    mistake("validator: no_masquerade_cidr_range", why)
                })?;
                vec![net.trunc()]
            }
        };
        let mut services = Vec::new();
        for (protocol, texts) in
            [(Protocol::Tcp, &raw.host_tcp_services), (Protocol::Udp, &raw.host_udp_services)]
        {
            for text in texts {
                let service = text.parse::<SocketAddrV4>().map_err(|_| {
                    let why = format!("`{text}` is not of the form ADDRESS:PORT");
                    mistake("validator: host services", why)
                })?;
                services.push(HostService {
                    address: *service.ip(),
                    protocol,
                    port: service.port(),
                });
            }
        }
        for text in &raw.dns_servers {
            let server = text.parse::<std::net::IpAddr>().map_err(|_| {
                let message = format!("invalid DNS server \"{text}\", must be valid IP address");
                mistake(&message, "dns_servers are addresses")
            })?;
            // Those on link-local addresses are the cell's own (contract section 7.7).
            if let std::net::IpAddr::V4(address) = server
                && Ipv4Addr::is_link_local(&address)
            {
                services.extend([Protocol::Tcp, Protocol::Udp].map(|protocol| HostService {
                    address,
                    protocol,
                    port: DNS,
                }));
            }
        }
        let force = raw.policy_agent_force_poll_address;
        Ok(Self {
            datastore: raw.datastore,
            owner: raw.datastore_file_owner,
            group: raw.datastore_file_group,
            dns_servers: raw.dns_servers,
            cell: CellTerms { services, not_masqueraded },
            mtu: mtu(raw.delegate.mtu)?,
            policy_agent: Some(force).filter(|address| !address.is_empty()),
            metadata: raw.metadata,
        })
    }

    /// The store of containers' metadata, below `root`.
    pub(crate) fn store(&self, root: &Path) -> Store<'_> {
        let path = root.join(self.datastore.trim_start_matches('/'));
        Store { path, owner: &self.owner, group: &self.group }
    }

    /// What the configuration names as containers' name servers.
    pub(crate) fn name_servers(&self) -> Option<Vec<String>> {
        Some(self.dns_servers.clone()).filter(|servers| !servers.is_empty())
    }
}

impl Raw {
    /// What the contract's plugin refuses to start without, in its words and order.
    fn check(&self) -> Result<(), Failure> {
        let underlay = self.underlay_ips.len() + self.temporary_underlay_interface_names.len();
        let limit = &self.outbound_connections;
        for (wrong, message) in [
            (self.datastore.is_empty(), "missing datastore path"),
            (self.iptables_lock_file.is_empty(), "missing iptables lock file path"),
            (self.instance_address.is_empty(), "missing instance address"),
            (underlay == 0, "missing underlay ips"),
            (self.ingress_tag.is_empty(), "missing ingress tag"),
            (self.vtep_name.is_empty(), "missing vtep device name"),
            (self.iptables_denied_logs_per_sec <= 0, "invalid denied logs per sec"),
            (self.iptables_accepted_udp_logs_per_sec <= 0, "invalid accepted udp logs per sec"),
            (limit.limit && limit.burst <= 0, "invalid outbound connection burst"),
            (limit.limit && limit.rate_per_sec <= 0, "invalid outbound connection rate"),
            (self.delegate.kind.is_empty(), "delegate config is missing type"),
        ] {
            if wrong {
                return Err(mistake(message, "see the plugin's part of the network configuration"));
            }
        }
        match self.delegate.kind.as_str() {
            "silk-cni" | "sarcenet-cni" => Ok(()),
            other => Err(Failure::new(
                Code::UnsupportedField,
                "unsupported field in the network configuration",
                format!("delegate.type is `{other}`; containers are attached by silk-cni alone"),
            )),
        }
    }
}

fn mistake(message: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Wrapper, message, why)
}
