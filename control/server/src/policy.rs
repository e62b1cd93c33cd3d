//! Policies, tags and security groups, as all parts of the servers know them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A transport protocol that policies can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its name on the wire and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one app may send to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Policy {
    /// The source app's GUID.
    pub source: String,
    /// The destination app's GUID.
    pub destination: String,
    /// The transport protocol.
    pub protocol: Protocol,
    /// First destination port. Version 0 of the API has no upper bound (contract section 1.4).
    pub first_port: u32,
    /// Last destination port, not below the first.
    pub last_port: u32,
}

/// A policy with the tags of its apps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaggedPolicy {
    /// The policy.
    pub policy: Policy,
    /// The source app's tag.
    pub source_tag: TagNumber,
    /// The destination app's tag.
    pub destination_tag: TagNumber,
}

/// The number that stands for a group in the VXLAN-GBP header; 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagNumber(pub u32);

impl TagNumber {
    /// As the APIs write it: hexadecimal, upper case, two digits a byte.
    pub fn text(self, bytes: u8) -> String {
        format!("{:0width$X}", self.0, width = usize::from(bytes) * 2)
    }
}

/// A tag and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The number.
    pub number: TagNumber,
    /// The GUID of an app, or another name.
    pub id: String,
    /// What the id names: `app`, `router`.
    pub kind: String,
}

/// Which policies are asked for. Lists are of app GUIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyFilter {
    /// All of them.
    All,
    /// Those with one of these at either end.
    Either(Vec<String>),
    /// Those from one of these.
    Source(Vec<String>),
    /// Those to one of these.
    Destination(Vec<String>),
    /// Those from one of the first to one of the second.
    Both(Vec<String>, Vec<String>),
}

/// A rule of a security group as Cloud Controller has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityRule {
    /// `tcp`, `udp`, `icmp` or `all`.
    pub protocol: Option<String>,
    /// Addresses, networks and ranges of addresses.
    pub destination: Option<String>,
    /// Ports and ranges of ports.
    pub ports: Option<String>,
    /// ICMP type.
    #[serde(rename = "type")]
    pub kind: Option<i64>,
    /// ICMP code.
    pub code: Option<i64>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether conversations that it admits are recorded.
    pub log: Option<bool>,
}

impl SecurityRule {
    /// Rules as they are stored: JSON text with all fields, whether they were there or not (contract
    /// section 1.10).
    pub fn text(rules: Vec<Self>) -> Result<String, serde_json::Error> {
        let complete = |rule: Self| Self {
            protocol: Some(rule.protocol.unwrap_or_default()),
            destination: Some(rule.destination.unwrap_or_default()),
            ports: Some(rule.ports.unwrap_or_default()),
            kind: Some(rule.kind.unwrap_or_default()),
            code: Some(rule.code.unwrap_or_default()),
            description: Some(rule.description.unwrap_or_default()),
            log: Some(rule.log.unwrap_or_default()),
        };
        serde_json::to_string(&rules.into_iter().map(complete).collect::<Vec<_>>())
    }
}

/// A security group as Cloud Controller has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Its place in the list, given by the database; 0 in what is stored.
    pub row: i64,
    /// Its GUID.
    pub guid: String,
    /// Its name.
    pub name: String,
    /// Its rules, as JSON text.
    pub rules: String,
    /// Whether it holds for all staging containers.
    pub staging_default: bool,
    /// Whether it holds for all running containers.
    pub running_default: bool,
    /// Spaces whose staging containers it holds for.
    pub staging_spaces: Vec<String>,
    /// Spaces whose running containers it holds for.
    pub running_spaces: Vec<String>,
}
