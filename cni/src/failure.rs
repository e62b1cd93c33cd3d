//! CNI error objects (specification 1.1.0, section 5 "Error").

use std::fmt::Display;

use sarcenet_agent_api::{AgentError, ErrorCode};

/// What kind of error it is, for the runtime. Below 100 the specification's, from 100 on ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Code {
    /// This version of the specification is not spoken.
    IncompatibleVersion = 1,
    /// A field of the configuration is not supported.
    UnsupportedField = 2,
    /// The container is unknown or does not exist.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    Environment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// The configuration is not JSON, or not of the right types.
    Decode = 6,
    /// The configuration does not make sense.
    Configuration = 7,
    /// Something is not there yet; the runtime should try again.
    TryAgain = 11,
    /// STATUS: ADD cannot be served now.
    Unavailable = 50,
    /// STATUS: the same, and containers that are attached may not be reached.
    Disconnected = 51,
    /// The agent failed in a way that has no code of its own.
    Agent = 100,
    /// The container's namespace could not be changed, or is not as it was made.
    Namespace = 101,
    /// The cell has no free address.
    NoAddress = 102,
    /// The wrapper's configuration is wrong (contract section 7.1), or its policy agent or its store
    /// did not do what they should.
    Wrapper = 999,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    message: String,
    details: String,
}

impl Failure {
    /// `message` is what was being done, `details` the cause.
    pub(crate) fn new(code: Code, message: impl Into<String>, details: impl Display) -> Self {
        Self { code, message: message.into(), details: details.to_string() }
    }

    /// The agent did not do what was asked.
    pub(crate) fn agent(doing: &str, error: &AgentError) -> Self {
        let code = match error {
            AgentError::Connect { .. } | AgentError::Transport(_) | AgentError::Closed => {
                Code::TryAgain
            }
            AgentError::Refused { code, .. } => match code {
                ErrorCode::Invalid => Code::Configuration,
                ErrorCode::Unknown => Code::UnknownContainer,
                ErrorCode::NoAddress => Code::NoAddress,
                ErrorCode::Namespace => Code::Namespace,
                ErrorCode::Storage => Code::Io,
                ErrorCode::Dataplane | ErrorCode::Busy => Code::TryAgain,
                ErrorCode::Version | ErrorCode::Config => Code::Agent,
            },
            AgentError::Version { .. } | AgentError::Unexpected => Code::Agent,
        };
        Self::new(code, doing, error)
    }

    /// The same failure with another code.
    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn to_json(&self, version: &str) -> String {
        serde_json::json!({
            "cniVersion": version,
            "code": self.code as u16,
            "msg": self.message,
            "details": self.details,
        })
        .to_string()
    }
}
