//! From a body to policies. Each is checked as it is read, so that memory is bounded by the body.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::Version;
use crate::http::json::{self, JsonError};
use crate::policy::{Policy, Protocol};

/// Why a body is refused; the first reason counts (contract section 1.4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    /// It is no JSON, or something in it has another type.
    #[error("mapper: unmarshal json: {0}")]
    Json(#[from] JsonError),
    /// A policy in it is not one.
    #[error("mapper: validate policies: {0}")]
    Invalid(#[from] Invalid),
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("missing policies")]
    NoPolicies,
    #[error("missing source id")]
    NoSource,
    #[error("missing destination id")]
    NoDestination,
    #[error("invalid destination protocol, specify either udp or tcp")]
    Protocol,
    #[error("invalid port range {0}-{1}, start must be less than or equal to end")]
    Range(i64, i64),
    #[error("invalid start port {0}, must be in range 1-65535")]
    Start(i64),
    #[error("missing start port")]
    NoStart,
    #[error("invalid end port {0}, must be in range 1-65535")]
    End(i64),
    #[error("invalid port {0}, must be in range 1-65535")]
    Port(i64),
    #[error("missing port")]
    NoPort,
    #[error("tags may not be specified")]
    Tag,
}

/// The policies of a body.
pub(crate) fn read(version: Version, body: &[u8]) -> Result<Vec<Policy>, PayloadError> {
    let list = match version {
        Version::V0 => json::from_slice::<Body<OnePort>>(body)?.policies.checked,
        Version::V1 => json::from_slice::<Body<PortRange>>(body)?.policies.checked,
    };
    let policies = list?;
    if policies.is_empty() {
        return Err(Invalid::NoPolicies.into());
    }
    Ok(policies)
}

#[derive(Deserialize)]
#[serde(default, bound = "D: Destination")]
struct Body<D> {
    policies: List<D>,
}

#[derive(Deserialize)]
#[serde(default, bound = "D: Destination")]
struct Entry<D> {
    source: Source,
    destination: D,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    id: String,
    tag: String,
}

/// The destination of a version.
trait Destination: Default + for<'de> Deserialize<'de> {
    /// Its first and last port.
    fn ports(&self) -> Result<(u32, u32), Invalid>;
    /// What both versions have.
    fn common(self) -> Common;
}

struct Common {
    id: String,
    tag: String,
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OnePort {
    id: String,
    tag: String,
    protocol: String,
    port: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PortRange {
    id: String,
    tag: String,
    protocol: String,
    ports: Ports,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ports {
    start: i64,
    end: i64,
}

impl Destination for OnePort {
    /// There is no upper bound but that of the database.
    fn ports(&self) -> Result<(u32, u32), Invalid> {
        match self.port {
            0 => Err(Invalid::NoPort),
            port @ 1.. => match i32::try_from(port) {
                Ok(port) => Ok((port as u32, port as u32)),
                Err(_) => Err(Invalid::Port(port)),
            },
            port => Err(Invalid::Port(port)),
        }
    }

    fn common(self) -> Common {
        Common { id: self.id, tag: self.tag, protocol: self.protocol }
    }
}

impl Destination for PortRange {
    fn ports(&self) -> Result<(u32, u32), Invalid> {
        match self.ports {
            Ports { start, end } if start > end => Err(Invalid::Range(start, end)),
            Ports { start, .. } if start < 0 => Err(Invalid::Start(start)),
            Ports { start: 0, .. } => Err(Invalid::NoStart),
            Ports { end, .. } if end > 65535 => Err(Invalid::End(end)),
            Ports { start, end } => Ok((start as u32, end as u32)),
        }
    }

    fn common(self) -> Common {
        Common { id: self.id, tag: self.tag, protocol: self.protocol }
    }
}

impl<D: Destination> Entry<D> {
    fn policy(self) -> Result<Policy, Invalid> {
        let Self { source, destination } = self;
        let ports = destination.ports();
        let common = destination.common();
        if source.id.is_empty() {
            return Err(Invalid::NoSource);
        }
        if common.id.is_empty() {
            return Err(Invalid::NoDestination);
        }
        let protocol = match common.protocol.as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(Invalid::Protocol),
        };
        let (first_port, last_port) = ports?;
        if !source.tag.is_empty() || !common.tag.is_empty() {
            return Err(Invalid::Tag);
        }
        Ok(Policy { source: source.id, destination: common.id, protocol, first_port, last_port })
    }
}

impl<D: Destination> Default for Body<D> {
    fn default() -> Self {
        Self { policies: List::default() }
    }
}

impl<D: Destination> Default for Entry<D> {
    fn default() -> Self {
        Self { source: Source::default(), destination: D::default() }
    }
}

/// A list of policies, or what is wrong with the first bad one. What follows that one is only read
/// to see whether all of it is JSON.
struct List<D> {
    checked: Result<Vec<Policy>, Invalid>,
    version: PhantomData<D>,
}

impl<D> Default for List<D> {
    fn default() -> Self {
        Self { checked: Ok(Vec::new()), version: PhantomData }
    }
}

impl<'de, D: Destination> Deserialize<'de> for List<D> {
    fn deserialize<T: Deserializer<'de>>(deserializer: T) -> Result<Self, T::Error> {
        deserializer.deserialize_seq(Self::default())
    }
}

impl<'de, D: Destination> Visitor<'de> for List<D> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of policies")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<Self, A::Error> {
        while let Some(entry) = entries.next_element::<Entry<D>>()? {
            if let Ok(policies) = &mut self.checked {
                match entry.policy() {
                    Ok(policy) => policies.push(policy),
                    Err(invalid) => self.checked = Err(invalid),
                }
            }
        }
        Ok(self)
    }
}
