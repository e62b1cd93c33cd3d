//! Why an action failed, in the contract's words (section 8.6).

use std::io;

use sarcenet_agent_api::AgentError;
use sarcenet_cni_chain::{ChainError, LoadError};

use crate::arguments::ArgumentError;
use crate::config::ConfigError;
use crate::handle_lock::HandleLockError;
use crate::input::InputError;
use crate::ports::PortError;
use crate::result::ResultError;

/// What is printed after the prefix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("this is a plugin for Garden-runC.  Don't run it directly.")]
    Direct,
    #[error("parse args: {0}")]
    Arguments(#[from] ArgumentError),
    #[error("parse args: {0}")]
    Config(#[from] ConfigError),
    #[error(
        "handle {0:?} is not 1 to 128 letters, digits, `_`, `.` and `-`, the first one a letter or \
         digit"
    )]
    Handle(String),
    #[error("load cni config: {0}")]
    Load(#[from] LoadError),
    #[error("unrecognized action: {0}")]
    Action(String),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Lock(#[from] HandleLockError),
    #[error(
        "proxy redirect apply: packets are not redirected to proxies here; empty \
         proxy_redirect_cidr and turn enable_ingress_proxy_redirect off"
    )]
    ProxyRedirect,
    #[error("failed mounting {namespace} to {target}: {source}")]
    Mount { namespace: String, target: String, source: io::Error },
    #[error("allocating port: {0}")]
    Ports(#[from] PortError),
    #[error("cni up failed: add network list failed: {0}")]
    Up(ChainError),
    #[error("cni up failed: no ip allocated")]
    NoNetwork,
    #[error(transparent)]
    Result(#[from] ResultError),
    #[error("cni down: del network failed: {0}")]
    Down(ChainError),
    #[error("{action}: {source}")]
    Agent { action: &'static str, source: AgentError },
    #[error("write the answer: {0}")]
    Output(io::Error),
    #[error("encode the answer: {0}")]
    Encode(#[from] serde_json::Error),
}
