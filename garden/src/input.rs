//! What Garden says on standard input (contract sections 8.1 and 8.2).

use std::io::{self, Read as _};

use sarcenet_agent_api::{GardenRule, GardenRuleError, NetOutRule};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json::{JsonError, Object};

/// Longest input that is read, in bytes.
const INPUT_MAX: u64 = 16 << 20;

/// Why there is nothing to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("read standard input: {0}")]
    Read(#[from] io::Error),
    #[error("standard input is longer than {INPUT_MAX} bytes")]
    TooLong,
    #[error("decode standard input: {0}")]
    Decode(#[from] JsonError),
    #[error("decode standard input: rule {number}: {source}")]
    Rule { number: usize, source: GardenRuleError },
}

/// A container that comes.
#[derive(Debug)]
pub(crate) struct Up {
    /// A process in it; 0 when its namespace comes as descriptor 3.
    pub(crate) pid: i32,
    /// What the platform says about it.
    pub(crate) properties: Map<String, Value>,
    /// Rules for traffic to the outside, for the plugins.
    pub(crate) net_out: Vec<Value>,
    /// Ports of the cell that shall lead to it.
    pub(crate) net_in: Vec<PortPair>,
}

/// A port of the cell, 0 for any, and the one of the container that it leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PortPair {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
}

impl Up {
    pub(crate) fn read(mut object: Object) -> Result<Self, InputError> {
        Ok(Self {
            pid: object.take("Pid")?,
            properties: object.take("Properties")?,
            net_out: object.take("netout_rules")?,
            net_in: object.take("netin")?,
        })
    }
}

/// The one port of `net-in`, where 0 for the container's means the same as the cell's. The
/// addresses that come with it are the cell's and what `up` said: nothing new.
pub(crate) fn net_in(mut object: Object) -> Result<PortPair, InputError> {
    let host_port = object.take("HostPort")?;
    Ok(PortPair { host_port, container_port: object.take("ContainerPort")? })
}

/// The one rule of `net-out`.
pub(crate) fn net_out(mut object: Object) -> Result<Vec<NetOutRule>, InputError> {
    let rule: Option<GardenRule> = object.take("netout_rule")?;
    decode(rule.as_slice())
}

/// The rules of `bulk-net-out`.
pub(crate) fn bulk_net_out(mut object: Object) -> Result<Vec<NetOutRule>, InputError> {
    let rules: Vec<GardenRule> = object.take("netout_rules")?;
    decode(&rules)
}

fn decode(rules: &[GardenRule]) -> Result<Vec<NetOutRule>, InputError> {
    let decode = |(rule, number): (&GardenRule, usize)| {
        NetOutRule::try_from(rule).map_err(|source| InputError::Rule { number, source })
    };
    rules.iter().zip(1..).map(decode).collect()
}

/// Reads all of standard input.
pub(crate) fn read<T>(
    decode: impl FnOnce(Object) -> Result<T, InputError>,
) -> Result<T, InputError> {
    let mut text = Vec::new();
    io::stdin().lock().take(INPUT_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > INPUT_MAX {
        return Err(InputError::TooLong);
    }
    decode(Object::read(&text)?)
}
