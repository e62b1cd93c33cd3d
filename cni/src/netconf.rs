//! The network configuration on standard input (specification 1.1.0, section 1).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AttachKind, AttachmentId, Metadata, Terms, is_name};
use serde::Deserialize;

use crate::failure::{Code, Failure};
use crate::runtime::{Dns, RuntimeConfig};

/// Versions of the specification that are spoken, oldest first.
pub(crate) const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];
/// The version that has GC, STATUS and the MTU in results.
pub(crate) const VERSION_1_1: &str = "1.1.0";

/// The keys that mean something here. Others are the runtime's or other plugins' affair.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetConf {
    pub(crate) cni_version: String,
    name: Option<String>,
    agent_socket: Option<PathBuf>,
    /// What to make the interface of.
    #[serde(default)]
    pub(crate) attach: AttachKind,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    runtime_config: Option<RuntimeConfig>,
    #[serde(default)]
    args: Args,
    ipam: Option<Ipam>,
    prev_result: Option<PrevResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: CniArgs,
}

#[derive(Debug, Default, Deserialize)]
struct CniArgs {
    #[serde(default)]
    labels: Labels,
}

/// The convention for labels is a list of pairs; objects occur, too.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Labels {
    Map(BTreeMap<String, String>),
    List(Vec<Label>),
}

impl Default for Labels {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
struct Label {
    key: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PrevResult {
    #[serde(default)]
    ips: Vec<PrevAddress>,
}

#[derive(Debug, Deserialize)]
struct PrevAddress {
    address: Ipv4Net,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// Only the version, for commands and failures that need no more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionOnly {
    cni_version: Option<String>,
}

/// The version that the configuration names, if it is one that is spoken.
pub(crate) fn version(input: &[u8]) -> Result<String, Failure> {
    let VersionOnly { cni_version } = decode(input)?;
    let named = cni_version.unwrap_or_default();
    if VERSIONS.contains(&named.as_str()) {
        return Ok(named);
    }
    Err(Failure::new(
        Code::IncompatibleVersion,
        "incompatible CNI version",
        format!("cniVersion is `{named}`; this plugin speaks {}", VERSIONS.join(" and ")),
    ))
}

/// The version to put into an error object: the configuration's if it is to be had.
pub(crate) fn version_for_errors(input: &[u8]) -> String {
    version(input).unwrap_or_else(|_| VERSION_1_1.to_owned())
}

fn decode<'a, T: Deserialize<'a>>(input: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(input)
        .map_err(|error| Failure::new(Code::Decode, "decode the network configuration", error))
}

impl NetConf {
    /// Reads and checks it.
    pub(crate) fn read(input: &[u8]) -> Result<Self, Failure> {
        version(input)?;
        let netconf: Self = decode(input)?;
        match netconf.name.as_deref() {
            Some(name) if is_name(name) => {}
            Some(name) => {
                return Err(invalid(format!(
                    "name `{name}` is not made of letters, digits, `_`, `.` and `-`, a letter or digit first"
                )));
            }
            None => return Err(invalid("it has no name")),
        }
        if let Some(path) = &netconf.agent_socket
            && !path.is_absolute()
        {
            return Err(invalid(format!(
                "agentSocket `{}` is not an absolute path",
                path.display()
            )));
        }
        if let Some(Ipam { kind: Some(kind) }) = &netconf.ipam {
            return Err(Failure::new(
                Code::UnsupportedField,
                "unsupported field in the network configuration",
                format!("ipam.type is `{kind}`; the agent gives the addresses, remove ipam"),
            ));
        }
        Ok(netconf)
    }

    /// Where the agent listens.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.agent_socket.clone().unwrap_or_else(|| sarcenet_agent_api::socket_path(Path::new("/")))
    }

    /// The app that the container belongs to.
    pub(crate) fn app(&self) -> Option<String> {
        let label = match &self.args.cni.labels {
            Labels::Map(map) => map.get("app"),
            Labels::List(list) => {
                list.iter().find(|label| label.key == "app").map(|label| &label.value)
            }
        };
        let top = self.metadata.as_ref().and_then(|metadata| metadata.policy_group_id.as_ref());
        let inner = self.runtime_config.as_ref().and_then(RuntimeConfig::policy_group_id);
        let app = top.or(inner).or(label)?;
        (!app.is_empty()).then(|| app.clone())
    }

    /// What the runtime says about the container beside its interface.
    pub(crate) fn terms(&self) -> Result<Terms, Failure> {
        let metadata = self.metadata.clone().unwrap_or_default();
        match &self.runtime_config {
            Some(runtime) => runtime.terms(&metadata),
            None => Ok(Terms { metadata, ..Terms::default() }),
        }
    }

    /// What the container's resolver shall use, as far as the runtime says it.
    pub(crate) fn dns(&self) -> Dns {
        self.runtime_config.as_ref().map(RuntimeConfig::dns).unwrap_or_default()
    }

    /// The address in the result of ADD, which CHECK gets back.
    pub(crate) fn previous_address(&self) -> Result<Option<Ipv4Addr>, Failure> {
        let previous =
            self.prev_result.as_ref().ok_or_else(|| invalid("CHECK needs a prevResult"))?;
        Ok(previous.ips.first().map(|ip| ip.address.addr()))
    }

    /// The attachments that GC must leave. A list that is not there is not an empty list.
    pub(crate) fn valid_attachments(self) -> Result<Vec<AttachmentId>, Failure> {
        let list = self
            .valid_attachments
            .ok_or_else(|| invalid("GC needs the list cni.dev/valid-attachments"))?;
        let id = |ValidAttachment { container, ifname }| AttachmentId { container, ifname };
        Ok(list.into_iter().map(id).collect())
    }
}

fn invalid(why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Configuration, "the network configuration is invalid", why)
}
