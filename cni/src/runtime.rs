//! What the runtime says about the container beside its interface: `runtimeConfig` and `metadata`.
//!
//! Garden's spelling (contract section 7.1) and that of the CNI conventions are both read, and so is
//! that of containerd, whose names begin with capitals: plugins in Go do not mind.

use std::collections::BTreeMap;

use sarcenet_agent_api::{
    Bandwidth, GardenRule, Metadata, NetOutRule, PortMapping, Protocol, Rate, Terms,
};
use serde::Deserialize;

use crate::failure::{Code, Failure};
use crate::netconf::invalid;

/// `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RuntimeConfig {
    port_mappings: Option<Vec<Mapping>>,
    net_out_rules: Option<Vec<GardenRule>>,
    bandwidth: Option<Limits>,
    dns: Option<Dns>,
    metadata: Option<Metadata>,
    ips: Option<Vec<String>>,
    mac: Option<String>,
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<BTreeMap<String, String>>,
}

/// `host_port` is Garden's spelling, `hostPort` that of the conventions, which have a protocol and
/// an address of the cell too.
#[derive(Debug, Deserialize)]
struct Mapping {
    #[serde(alias = "hostPort", alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "containerPort", alias = "ContainerPort")]
    container_port: u16,
    #[serde(alias = "Protocol")]
    protocol: Option<String>,
    #[serde(alias = "hostIP", alias = "HostIP")]
    host_ip: Option<String>,
}

/// As the plugin `bandwidth` of the CNI project reads them: bits per second and bits, towards the
/// container (ingress) and from it (egress).
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Limits {
    #[serde(alias = "IngressRate")]
    ingress_rate: u64,
    #[serde(alias = "IngressBurst")]
    ingress_burst: u64,
    #[serde(alias = "EgressRate")]
    egress_rate: u64,
    #[serde(alias = "EgressBurst")]
    egress_burst: u64,
}

/// What the container's resolver shall use.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    /// Name servers.
    #[serde(alias = "nameservers", alias = "Servers")]
    pub(crate) servers: Vec<String>,
    /// The domain of short names.
    pub(crate) domain: Option<String>,
    /// Domains that are tried.
    #[serde(alias = "search", alias = "Searches")]
    pub(crate) searches: Vec<String>,
    /// Options of resolv.conf(5).
    #[serde(alias = "Options")]
    pub(crate) options: Vec<String>,
}

impl RuntimeConfig {
    /// What the agent shall know. `metadata` is that of the configuration's top level.
    pub(crate) fn terms(&self, metadata: &Metadata) -> Result<Terms, Failure> {
        let mappings = self.port_mappings.iter().flatten().zip(0..);
        let rules = self.net_out_rules.iter().flatten().zip(1..);
        Ok(Terms {
            metadata: merged(metadata, self.metadata.as_ref()),
            mappings: mappings.map(|(one, index)| mapping(one, index)).collect::<Result<_, _>>()?,
            net_out: rules.map(|(rule, number)| net_out(rule, number)).collect::<Result<_, _>>()?,
            bandwidth: self.bandwidth.unwrap_or_default().read("runtimeConfig.bandwidth")?,
            ..Terms::default()
        })
    }

    /// Limits on the container's traffic.
    pub(crate) fn limits(&self) -> Option<Limits> {
        self.bandwidth
    }

    /// What the container's resolver shall use.
    pub(crate) fn dns(&self) -> Option<&Dns> {
        self.dns.as_ref()
    }

    /// Addresses that the interface shall have.
    pub(crate) fn ips(&self) -> Option<&Vec<String>> {
        self.ips.as_ref()
    }

    /// MAC address that the interface shall have.
    pub(crate) fn mac(&self) -> Option<&String> {
        self.mac.as_ref()
    }

    /// Annotations of the container's pod.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.clone().unwrap_or_default()
    }
}

/// Text by text; the top level counts first.
fn merged(top: &Metadata, inner: Option<&Metadata>) -> Metadata {
    let Some(inner) = inner else { return top.clone() };
    let pick = |top: &Option<String>, inner: &Option<String>| top.clone().or_else(|| inner.clone());
    Metadata {
        app_id: pick(&top.app_id, &inner.app_id),
        policy_group_id: pick(&top.policy_group_id, &inner.policy_group_id),
        space_id: pick(&top.space_id, &inner.space_id),
        org_id: pick(&top.org_id, &inner.org_id),
        ports: pick(&top.ports, &inner.ports),
        container_workload: pick(&top.container_workload, &inner.container_workload),
        log_config: pick(&top.log_config, &inner.log_config),
    }
}

fn mapping(mapping: &Mapping, index: usize) -> Result<PortMapping, Failure> {
    let wrong = |why: String| invalid(format!("runtimeConfig.portMappings[{index}]: {why}"));
    if mapping.host_port == 0 {
        return Err(Failure::new(
            Code::Configuration,
            "cannot allocate port 0",
            format!("runtimeConfig.portMappings[{index}] has no host port; give it a number"),
        ));
    }
    if mapping.container_port == 0 {
        return Err(wrong("the container's port is 0".into()));
    }
    let protocol = match mapping.protocol.as_deref() {
        None | Some("" | "tcp" | "TCP") => Protocol::Tcp,
        Some("udp" | "UDP") => Protocol::Udp,
        Some(other) => return Err(wrong(format!("protocol `{other}` is not tcp or udp"))),
    };
    match mapping.host_ip.as_deref() {
        None | Some("" | "0.0.0.0") => {}
        Some(address) => {
            return Err(wrong(format!(
                "ports of a single address ({address}) cannot be mapped; leave hostIP out"
            )));
        }
    }
    let (host_port, container_port) = (mapping.host_port, mapping.container_port);
    Ok(PortMapping { protocol, host_port, container_port })
}

fn net_out(rule: &GardenRule, number: usize) -> Result<NetOutRule, Failure> {
    NetOutRule::try_from(rule)
        .map_err(|error| invalid(format!("rule {number} of runtimeConfig.netOutRules: {error}")))
}

impl Limits {
    /// Reads them; `place` is where they stand.
    pub(crate) fn read(self, place: &str) -> Result<Bandwidth, Failure> {
        let rate = |name: &str, bits_per_second, burst_bits| match (bits_per_second, burst_bits) {
            (0, 0) => Ok(None),
            (0, _) => Err(format!("{name}: if burst is set, rate must also be set")),
            (_, 0) => Err(format!("{name}: if rate is set, burst must also be set")),
            _ => Ok(Some(Rate { bits_per_second, burst_bits })),
        };
        let wrong = |why| invalid(format!("{place}, {why}"));
        let Self { ingress_rate, ingress_burst, egress_rate, egress_burst } = self;
        Ok(Bandwidth {
            send: rate("egress", egress_rate, egress_burst).map_err(wrong)?,
            receive: rate("ingress", ingress_rate, ingress_burst).map_err(wrong)?,
        })
    }
}
