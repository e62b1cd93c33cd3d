//! What Cloud Foundry's agent is configured with of the way to the outside, and tells ours, as its
//! configuration has it and not ours (contract section 13.7).

use sarcenet_dataplane_api::{ConnectionLimit, Logging};
use serde::{Deserialize, Serialize};

use crate::config::{DenyNetworks, LIST_MAX, OutsideSpec};

/// In the place of the same settings of `outside:`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideTerms {
    /// Destinations that no security group can open.
    pub deny_networks: DenyNetworks,
    /// Limit on new TCP connections to one destination and port.
    pub outbound_connections: Option<ConnectionLimit>,
    /// What is recorded as events.
    pub logging: Logging,
    /// Whether security groups say what containers reach. Else the rules do that runtimes pass.
    pub security_groups: bool,
}

impl OutsideTerms {
    /// What of it cannot be in force on any cell.
    pub fn check(&self) -> Result<(), String> {
        let DenyNetworks { always, running, staging } = &self.deny_networks;
        for (name, list) in [("always", always), ("running", running), ("staging", staging)] {
            if list.len() > LIST_MAX {
                let count = list.len();
                return Err(format!(
                    "{name} has {count} networks, at most {LIST_MAX} are possible"
                ));
            }
            if let Some(net) = list.iter().find(|net| net.trunc() != **net) {
                return Err(format!("{name}: {net} has host bits set"));
            }
        }
        match self.outbound_connections {
            Some(ConnectionLimit { per_second, burst, .. }) if per_second == 0 || burst == 0 => {
                Err("a limit on connections of 0 would let nothing out".into())
            }
            _ => Ok(()),
        }
    }

    /// The settings of the cell with these.
    pub fn applied(&self, outside: &OutsideSpec) -> OutsideSpec {
        OutsideSpec {
            deny_networks: self.deny_networks.clone(),
            outbound_connections: self.outbound_connections,
            logging: self.logging,
            ..outside.clone()
        }
    }
}
