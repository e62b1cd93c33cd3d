//! Under which name the plugin was started.

use std::ffi::OsStr;
use std::path::Path;

use sarcenet_agent_api::AttachKind;

/// What it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `sarcenet-cni`, and every name that is none of the others.
    Sarcenet,
    /// `silk-cni`: attaches containers (contract section 6).
    Silk,
    /// `cni-wrapper-plugin`: the same, and what belongs to a container of Cloud Foundry's (contract
    /// section 7).
    Wrapper,
    /// `bandwidth`: limits the traffic of a container that is attached (contract section 6.6).
    Bandwidth,
}

impl Program {
    /// By the first word of the command line.
    pub(crate) fn started_as(word: Option<&OsStr>) -> Self {
        let name = word.and_then(|word| Path::new(word).file_name()).and_then(OsStr::to_str);
        match name {
            Some("silk-cni") => Self::Silk,
            Some("cni-wrapper-plugin") => Self::Wrapper,
            Some("bandwidth") => Self::Bandwidth,
            _ => Self::Sarcenet,
        }
    }

    /// What interfaces are made of when the configuration does not say it: as Silk does, for those
    /// who had Silk.
    pub(crate) fn attach(self) -> AttachKind {
        match self {
            Self::Sarcenet | Self::Bandwidth => AttachKind::Tun,
            Self::Silk | Self::Wrapper => AttachKind::Veth,
        }
    }
}
