//! What the rules of a dataplane stand for.

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::RuleId;
use serde::{Deserialize, Serialize};

use crate::Policy;

/// What a rule of the dataplane stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    /// The rule.
    pub id: RuleId,
    /// What it was made from, in force or revoked a short while ago.
    pub meaning: RuleMeaning,
}

/// What a rule was made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RuleMeaning {
    /// A policy between apps.
    Policy(Policy),
    /// A rule of a security group.
    SecurityGroup {
        /// The group's name.
        group: String,
        /// Which rule of the group, from 1.
        number: u32,
    },
    /// A rule that the runtime passed with a container.
    NetOut {
        /// Which of them, from 1.
        number: u32,
    },
    /// A network that no security group can open.
    Denied {
        /// The network.
        network: Ipv4Net,
    },
    /// A TCP port that the app of a container names, which is open to the deployment's routers.
    Routers {
        /// The port.
        port: u16,
    },
}

impl std::fmt::Display for RuleMeaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::SecurityGroup { group, number } => {
                write!(f, "security group {group} rule {number}")
            }
            Self::NetOut { number } => write!(f, "netOutRules rule {number}"),
            Self::Denied { network } => write!(f, "deny_networks {network}"),
            Self::Routers { port } => write!(f, "routers to tcp {port}"),
        }
    }
}
