//! `bandwidth`, behind a plugin that has attached the container: its limits (contract section 6.6).
//!
//! The dataplane limits traffic, so nothing is made here: the agent is told, and forgets it with the
//! container.

use sarcenet_agent_api::{AgentError, Bandwidth, ErrorCode, Expected, Extension};
use serde::Deserialize;

use crate::environment::Command;
use crate::failure::{Code, Failure};
use crate::netconf::decode;
use crate::plugin::Call;
use crate::reply;
use crate::runtime::{Limits, RuntimeConfig};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    #[serde(flatten)]
    limits: Limits,
    runtime_config: Option<RuntimeConfig>,
}

pub(crate) fn run(call: &Call<'_>, command: Command, input: &[u8]) -> Result<String, Failure> {
    let Keys { limits, runtime_config } = decode(input)?;
    // What the runtime says counts in place of what the configuration says.
    let said = runtime_config.as_ref().and_then(RuntimeConfig::limits);
    let bandwidth = said.unwrap_or(limits).read("bandwidth")?;
    match command {
        Command::Add => {
            let id = call.variables.attachment()?;
            let previous = call.netconf.needed_previous("a plugin in a chain")?;
            if bandwidth != Bandwidth::default() {
                let more = Extension { bandwidth: Some(bandwidth), ..Extension::default() };
                call.connect()?.extend(id, more).map_err(|error| failure(&error))?;
            }
            reply::passed(call.netconf.version, previous.clone())
        }
        Command::Check if bandwidth != Bandwidth::default() => {
            let id = call.variables.attachment()?;
            let expected = call.netconf.needed_previous("CHECK")?.expected(&id.ifname)?;
            call.check_against(Expected { bandwidth: Some(bandwidth), ..expected })
        }
        // Nothing is to be compared or removed.
        _ => Ok(String::new()),
    }
}

fn failure(error: &AgentError) -> Failure {
    let doing = "limit the container's traffic";
    match error {
        AgentError::Refused { code: ErrorCode::Unknown, message } => {
            let why = format!("{message}; only containers that Sarcenet has attached are limited");
            Failure::new(Code::UnknownContainer, doing, why)
        }
        other => Failure::agent(doing, other),
    }
}
