//! What can be wrong with desired state.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{EgressRule, PortId, RuleId, RuleKey, SetId};

/// What is wrong with an update. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Generations only grow.
    #[error(
        "update to generation {got}, but generation {current} is in force; \
         it was sent twice or by a controller that lost its place: send a snapshot"
    )]
    Generation {
        /// In force.
        current: u64,
        /// In the update.
        got: u64,
    },
    /// Descriptors do not go with the message.
    #[error("the message needs {expected} file descriptors, {got} came with it")]
    Descriptors {
        /// How many are needed.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// Containers or peers, but no cell to which they belong.
    #[error("containers or peers without a cell: the cell must come first or with them")]
    NoCell,
    /// Something is wrong with the cell itself.
    #[error("cell {subnet}: {what}")]
    Cell {
        /// Its subnet.
        subnet: Ipv4Net,
        /// What is wrong.
        what: String,
    },
    /// Something is wrong with a peer.
    #[error("peer {subnet} at {underlay}: {what}")]
    Peer {
        /// Its subnet.
        subnet: Ipv4Net,
        /// Its underlay address.
        underlay: Ipv4Addr,
        /// What is wrong.
        what: String,
    },
    /// Something is wrong with a container.
    #[error("container {name} (port {port}, {address}): {what}", port = port.0)]
    Container {
        /// Its name.
        name: String,
        /// Its port.
        port: PortId,
        /// Its address.
        address: Ipv4Addr,
        /// What is wrong.
        what: String,
    },
    /// Something is wrong with a rule.
    #[error(
        "rule {id}: tag {source_tag} to {destination} {protocol} {first}-{last}: {what}",
        id = id.0, source_tag = key.source, destination = key.destination,
        protocol = key.protocol, first = key.ports.first, last = key.ports.last
    )]
    Rule {
        /// Its name.
        id: RuleId,
        /// What it says.
        key: RuleKey,
        /// What is wrong.
        what: &'static str,
    },
    /// Something is wrong with an egress rule.
    #[error(
        "egress set {set}, rule {index} ({first}-{last}, {traffic:?}): {what}",
        set = set.0, first = rule.first, last = rule.last, traffic = rule.traffic
    )]
    Egress {
        /// The set that it is in.
        set: SetId,
        /// Its index in the whole set, from 0.
        index: u32,
        /// What it says.
        rule: EgressRule,
        /// What is wrong.
        what: &'static str,
    },
    /// Something is wrong with a set of egress rules, or with the way in which it came.
    #[error("egress set {set}: {what}", set = set.0)]
    Set {
        /// Its name.
        set: SetId,
        /// What is wrong.
        what: String,
    },
    /// Something is wrong with the settings of a container.
    #[error(
        "settings of container {name} (port {port}): {what}",
        name = name.as_deref().unwrap_or("?"), port = port.0
    )]
    Settings {
        /// The container's port.
        port: PortId,
        /// The container's name, if there is one with that port.
        name: Option<String>,
        /// What is wrong.
        what: String,
    },
    /// More than fits.
    #[error("{count} {what}, at most {max} are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many are possible.
        max: usize,
    },
}
