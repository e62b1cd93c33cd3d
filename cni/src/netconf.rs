//! The network configuration on standard input (specification 1.1.0, section 1).

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{AttachKind, AttachmentId, Metadata, Terms, Wishes, is_name};
use serde::Deserialize;

use crate::environment::Variables;
use crate::failure::{Code, Failure};
use crate::identity::{Identity, Labels, Said};
use crate::previous::Previous;
use crate::runtime::{Dns, RuntimeConfig};
use crate::version::Version;

/// The keys that mean something here. Others are the runtime's or other plugins' affair.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    name: Option<String>,
    agent_socket: Option<PathBuf>,
    attach: Option<AttachKind>,
    /// Silk's spelling of "the cell's" is 0.
    mtu: Option<i64>,
    #[serde(default)]
    identity: Identity,
    metadata: Option<Metadata>,
    runtime_config: Option<RuntimeConfig>,
    #[serde(default)]
    args: Args,
    ipam: Option<Ipam>,
    dns: Option<Dns>,
    prev_result: Option<Previous>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
    /// What libcni called the same before the specification was released.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: CniArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CniArgs {
    labels: Labels,
    ips: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: Option<String>,
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
pub(crate) fn version(input: &[u8]) -> Result<Version, Failure> {
    let VersionOnly { cni_version } = decode(input)?;
    Version::read(&cni_version.unwrap_or_default())
}

/// The version to put into an answer that needs none: the configuration's if it is to be had.
pub(crate) fn version_for_answers(input: &[u8]) -> Version {
    version(input).unwrap_or(Version::NEWEST)
}

/// Reads some of the configuration's keys.
pub(crate) fn decode<'a, T: Deserialize<'a>>(input: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(input)
        .map_err(|error| Failure::new(Code::Decode, "decode the network configuration", error))
}

/// A configuration that makes sense.
#[derive(Debug)]
pub(crate) struct NetConf {
    pub(crate) version: Version,
    /// The network's name.
    pub(crate) name: String,
    raw: Raw,
}

impl NetConf {
    /// Reads and checks it.
    pub(crate) fn read(input: &[u8]) -> Result<Self, Failure> {
        let version = version(input)?;
        let mut raw: Raw = decode(input)?;
        let name = match raw.name.take() {
            Some(name) if is_name(&name) => name,
            Some(name) => {
                return Err(invalid(format!(
                    "name `{name}` is not made of letters, digits, `_`, `.` and `-`, a letter or digit first"
                )));
            }
            None => return Err(invalid("it has no name")),
        };
        if let Some(path) = &raw.agent_socket
            && !path.is_absolute()
        {
            return Err(invalid(format!(
                "agentSocket `{}` is not an absolute path",
                path.display()
            )));
        }
        if let Some(Ipam { kind: Some(kind) }) = &raw.ipam {
            return Err(Failure::new(
                Code::UnsupportedField,
                "unsupported field in the network configuration",
                format!("ipam.type is `{kind}`; the agent gives the addresses, remove ipam"),
            ));
        }
        mtu(raw.mtu)?;
        Ok(Self { version, name, raw })
    }

    /// Where the agent listens: where the configuration says, or where it does below the root.
    pub(crate) fn agent_socket(&self, variables: &Variables) -> PathBuf {
        let configured = self.raw.agent_socket.clone();
        configured.unwrap_or_else(|| sarcenet_agent_api::socket_path(variables.root()))
    }

    /// What to make the interface of, if that is said.
    pub(crate) fn attach(&self) -> Option<AttachKind> {
        self.raw.attach
    }

    /// The result of the plugins before this one, if there is one.
    pub(crate) fn previous(&self) -> Option<&Previous> {
        self.raw.prev_result.as_ref()
    }

    /// The same for those who cannot do without.
    pub(crate) fn needed_previous(&self, command: &str) -> Result<&Previous, Failure> {
        self.previous().ok_or_else(|| invalid(format!("{command} needs a prevResult")))
    }

    /// What the runtime says about the container beside its interface.
    pub(crate) fn terms(&self, variables: &Variables) -> Result<Terms, Failure> {
        let top = self.raw.metadata.clone().unwrap_or_default();
        let runtime = self.raw.runtime_config.as_ref();
        let mut terms = match runtime {
            Some(runtime) => runtime.terms(&top)?,
            None => Terms { metadata: top, ..Terms::default() },
        };
        let said = Said {
            labels: &self.raw.args.cni.labels,
            annotations: &runtime.map(RuntimeConfig::annotations).unwrap_or_default(),
            args: &variables.arguments()?,
        };
        terms.metadata = self.raw.identity.complete(terms.metadata, &said);
        Ok(terms)
    }

    /// What the interface shall be like. What `runtimeConfig` says counts first, then `args`, then
    /// `CNI_ARGS`.
    pub(crate) fn wishes(&self, variables: &Variables) -> Result<Wishes, Failure> {
        let arguments = variables.arguments()?;
        let runtime = self.raw.runtime_config.as_ref();
        let asked = runtime.and_then(RuntimeConfig::ips).or(self.raw.args.cni.ips.as_ref());
        let address = match asked.map(Vec::as_slice) {
            None | Some([]) => arguments.get("IP").map(String::as_str),
            Some([one]) => Some(one.as_str()),
            Some(several) => {
                let several = several.join(", ");
                return Err(invalid(format!("ips: an interface has one address, not {several}")));
            }
        };
        let mac = runtime.and_then(RuntimeConfig::mac).or_else(|| arguments.get("MAC"));
        Ok(Wishes {
            address: address.filter(|text| !text.is_empty()).map(self::address).transpose()?,
            mac: mac.filter(|text| !text.is_empty()).map(|text| self::mac(text)).transpose()?,
            mtu: mtu(self.raw.mtu)?,
        })
    }

    /// What the container's resolver shall use, as far as runtime or configuration say it.
    pub(crate) fn dns(&self) -> Dns {
        let runtime = self.raw.runtime_config.as_ref().and_then(RuntimeConfig::dns);
        runtime.or(self.raw.dns.as_ref()).cloned().unwrap_or_default()
    }

    /// The attachments that GC must leave. A list that is not there is not an empty list.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<AttachmentId>, Failure> {
        let list = self.raw.valid_attachments.as_ref().or(self.raw.attachments.as_ref());
        let list = list.ok_or_else(|| invalid("GC needs the list cni.dev/valid-attachments"))?;
        let id = |one: &ValidAttachment| AttachmentId {
            container: one.container.clone(),
            ifname: one.ifname.clone(),
        };
        Ok(list.iter().map(id).collect())
    }
}

/// 0 leaves it to the cell, and so does what is more than any interface can have.
pub(crate) fn mtu(configured: Option<i64>) -> Result<Option<u16>, Failure> {
    match configured {
        Some(mtu) if mtu < 0 => {
            let message = "invalid config: MTU: less than min";
            Err(Failure::new(Code::Configuration, message, format!("mtu is {mtu}")))
        }
        mtu => Ok(mtu.filter(|mtu| *mtu != 0).and_then(|mtu| u16::try_from(mtu).ok())),
    }
}

/// An address, with a prefix length or without.
fn address(text: &str) -> Result<Ipv4Addr, Failure> {
    let net = text.parse::<Ipv4Net>().map(|net| net.addr());
    net.or_else(|_| text.parse())
        .map_err(|_| invalid(format!("the address asked for, `{text}`, is not an IPv4 address")))
}

fn mac(text: &str) -> Result<[u8; 6], Failure> {
    let wrong = || invalid(format!("the MAC address asked for, `{text}`, is none"));
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let digits = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
        let value = digits.and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte = value.ok_or_else(wrong)?;
    }
    if parts.next().is_some() { Err(wrong()) } else { Ok(bytes) }
}

pub(crate) fn invalid(why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Configuration, "the network configuration is invalid", why)
}
