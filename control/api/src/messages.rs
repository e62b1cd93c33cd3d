//! Requests and replies.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::{Mapping, PortId, RuleId};
use serde::{Deserialize, Serialize};

use crate::logging::{LoggingChange, LoggingStatus};
use crate::{
    AgentStatus, Bandwidth, FollowProblems, NetOutRule, Policy, PortMapping, RuleName, Tenant,
    Terms,
};

/// One interface of one container: what CNI calls an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// The runtime's name for the container (`CNI_CONTAINERID`): 1 to 128 letters, digits, `_`,
    /// `.` and `-`, the first one a letter or digit.
    pub container: String,
    /// The interface's name in the container (`CNI_IFNAME`): 1 to 15 characters.
    pub ifname: String,
}

impl std::fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.container, self.ifname)
    }
}

/// What an interface is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachKind {
    /// A TUN device: the fastest.
    #[default]
    Tun,
    /// A veth pair, for runtimes and programs that expect one.
    Veth,
}

impl std::fmt::Display for AttachKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tun => "tun",
            Self::Veth => "veth",
        })
    }
}

/// The cell's end of a veth pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEnd {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The address that the container takes for its gateway's; nobody has it.
    pub gateway: Ipv4Addr,
}

/// What the interface shall be like, where the runtime says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wishes {
    /// Its overlay address, one of the cell's that is free. A container that is attached keeps
    /// what it has.
    pub address: Option<Ipv4Addr>,
    /// Its MAC address, one of a single station; a veth's only. A container that is attached keeps
    /// what it has.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes, at least [`crate::MIN_MTU`]; the cell's where that is less.
    pub mtu: Option<u16>,
}

/// A wish to have an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which interface of which container.
    pub id: AttachmentId,
    /// Name of the CNI network, by which [`Request::Gc`] knows what is its own.
    pub network: String,
    /// Path of the container's network namespace (`CNI_NETNS`), as the agent sees it; kept to
    /// find the container again after a restart of the agent.
    pub netns_path: String,
    /// The app that the container belongs to; none for a container that no policy names.
    pub app: Option<String>,
    /// What to make it of. A container that is attached keeps what it has.
    pub kind: AttachKind,
    /// What it shall be like.
    pub wishes: Wishes,
    /// What else the runtime says about the container. Repeating the wish with other terms puts
    /// those in force.
    pub terms: Terms,
}

/// An interface as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which interface of which container.
    pub id: AttachmentId,
    /// Its overlay address; set with prefix length 32.
    pub address: Ipv4Addr,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// MAC address; none for the TUN, which has no link layer.
    pub mac: Option<[u8; 6]>,
    /// The cell's end of the pair; none for the TUN.
    pub host: Option<HostEnd>,
    /// Routes that lead through the interface: to [`HostEnd::gateway`], without a gateway for the
    /// TUN.
    pub routes: Vec<Ipv4Net>,
    /// Its port on the dataplane.
    pub port: PortId,
    /// Name servers that it should use; empty when the agent does not say.
    pub name_servers: Vec<Ipv4Addr>,
}

/// A container as the agent knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    /// The interface.
    pub attachment: Attachment,
    /// Path of the network namespace.
    pub netns_path: String,
    /// Its app.
    pub app: Option<String>,
    /// The tag that its packets carry; 0 when the app has none, because it is not named or the
    /// configuration does not know it.
    pub tag: u16,
    /// What its interface is made of.
    pub kind: AttachKind,
    /// Seconds since it was attached; none when that was by an agent that did not remember it.
    pub age_s: Option<u64>,
    /// Whether the dataplane has it.
    pub connected: bool,
    /// Seconds since it was seen that it has ended, without a DEL so far; none as long as it has not.
    pub ended_s: Option<u64>,
    /// Ports of the cell that lead to it.
    pub mappings: Vec<Mapping>,
}

/// An app as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInfo {
    /// Its id.
    pub id: String,
    /// Its tag, never 0.
    pub tag: u16,
}

/// What a container is to have beside what it was attached with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extension {
    /// Ports of the cell that shall lead to it, too.
    pub mappings: Vec<PortMapping>,
    /// Where it may go, too, when security groups do not say.
    pub net_out: Vec<NetOutRule>,
    /// Limits on its traffic, in place of those that it has; none leaves them as they are.
    pub bandwidth: Option<Bandwidth>,
}

/// What somebody believes of an interface who has it checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its address; none for whichever it was given.
    pub address: Option<Ipv4Addr>,
    /// Whether the default route leads through it: plugins that come after ours may change that.
    pub default_route: bool,
    /// Limits on its traffic; none for whichever it has.
    pub bandwidth: Option<Bandwidth>,
}

impl Default for Expected {
    /// What ADD makes.
    fn default() -> Self {
        Self { address: None, default_route: true, bandwidth: None }
    }
}

/// Said to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First message of every connection. [`Reply::Hello`].
    Hello {
        /// [`crate::VERSION`] of the sender.
        version: u32,
    },
    /// Make an interface; accompanied by one descriptor, the container's network namespace.
    /// Repeating it gives the same attachment again, repaired if something of it was lost.
    /// [`Reply::Added`].
    Add(Box<Attach>),
    /// Remove an interface and free its address. Succeeds when there is nothing to remove, also
    /// when the namespace is gone. [`Reply::Done`].
    Del {
        /// Which interface of which container.
        id: AttachmentId,
    },
    /// Is the interface as it was made? Accompanied by one descriptor, the container's network
    /// namespace. [`Reply::Done`], or an error that says what differs.
    Check {
        /// Which interface of which container.
        id: AttachmentId,
        /// What the caller believes of it.
        expected: Expected,
    },
    /// Let a container that is attached have more than it was attached with: what it has already
    /// stays, also when it is named again. A repeated [`Self::Add`] takes it back.
    /// [`Reply::Done`] when it is in force.
    Extend {
        /// Which interface of which container.
        id: AttachmentId,
        /// What it shall have.
        more: Extension,
    },
    /// Remove every interface of a network that is not mentioned (CNI's garbage collection), all
    /// that can be, also when some cannot. [`Reply::Done`].
    Gc {
        /// Name of the network; what belongs to others is left alone, and so is what was attached
        /// by an agent that did not remember networks.
        network: String,
        /// The interfaces that are still wanted, or the last of them.
        valid: Vec<AttachmentId>,
    },
    /// [`Reply::Containers`].
    Containers {
        /// Continue after this port.
        after: Option<PortId>,
    },
    /// [`Reply::Status`].
    Status,
    /// Write a policy into the configuration and enforce it on this cell before answering.
    /// [`Reply::Changed`].
    PolicyAllow(Policy),
    /// The opposite. [`Reply::Changed`].
    PolicyRevoke(Policy),
    /// [`Reply::Policies`].
    Policies {
        /// How many to skip.
        skip: u32,
    },
    /// [`Reply::Apps`].
    Apps {
        /// Continue after this tag; 0 for the beginning.
        after: u16,
    },
    /// What these rules stand for. [`Reply::Rules`]; unknown ones are left out.
    Rules {
        /// The rules, at most 256 at a time.
        ids: Vec<RuleId>,
    },
    /// Record other conversations than before, in force on this cell before the answer, until the
    /// agent ends; without a change, tell what is recorded. [`Reply::Logging`].
    Logging(LoggingChange),
    /// The next part of a document of what the policy server says, from the program that asks it in
    /// the agent's place: in the form of the agent's own copy on disk, of which what is missing stays
    /// as it was. One connection at a time may say so, from its first part or end until it is closed.
    /// [`Reply::Done`].
    FollowedPart {
        /// At most [`crate::MAX_PART`] of them.
        bytes: Vec<u8>,
    },
    /// The document, which may be empty, has come to its end: put it in force on this cell before
    /// answering. [`Reply::Done`].
    FollowedEnd(FollowProblems),
    /// Whose containers are here. [`Reply::Tenants`].
    Tenants {
        /// Continue after this one.
        after: Option<Tenant>,
    },
    /// The next [`Self::Gc`] of this connection is to leave these, too: more interfaces may be wanted
    /// than fit one message, but at most [`crate::MAX_KEPT`]. [`Reply::Done`].
    GcKeep {
        /// Some of the interfaces that are still wanted.
        valid: Vec<AttachmentId>,
    },
}

/// Said by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Welcome.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// Name of the cell.
        cell: String,
    },
    /// The interface is there and the dataplane has it.
    Added(Attachment),
    /// Done.
    Done,
    /// The policy is, or is no longer, in force on this cell.
    Changed {
        /// False when it was so already.
        changed: bool,
    },
    /// Not done; nothing was changed.
    Error {
        /// What kind of error, for programs.
        code: ErrorCode,
        /// What was wrong, for people.
        message: String,
    },
    /// Containers.
    Containers {
        /// In order of port.
        containers: Vec<ContainerInfo>,
        /// Whether there are more.
        more: bool,
    },
    /// How it is.
    Status(Box<AgentStatus>),
    /// Policies.
    Policies {
        /// In the order of the file.
        policies: Vec<Policy>,
        /// Whether there are more.
        more: bool,
    },
    /// Apps.
    Apps {
        /// In order of tag.
        apps: Vec<AppInfo>,
        /// Whether there are more.
        more: bool,
    },
    /// What rules stand for.
    Rules {
        /// In no particular order.
        rules: Vec<RuleName>,
    },
    /// What is recorded of conversations.
    Logging(LoggingStatus),
    /// Whose containers are here.
    Tenants {
        /// In order.
        tenants: Vec<Tenant>,
        /// Whether there are more.
        more: bool,
    },
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense, or this connection may not make it.
    Invalid,
    /// The other side speaks another version.
    Version,
    /// No such container, app or policy.
    Unknown,
    /// The cell's subnet has no free address.
    NoAddress,
    /// Something in the container's namespace could not be made or is not as it was.
    Namespace,
    /// The state could not be written to disk.
    Storage,
    /// The configuration cannot be changed or is not valid.
    Config,
    /// The dataplane does not answer; try again.
    Dataplane,
    /// The agent has too much to do; try again.
    Busy,
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid request",
            Self::Version => "version mismatch",
            Self::Unknown => "unknown",
            Self::NoAddress => "no free address",
            Self::Namespace => "container namespace",
            Self::Storage => "storage",
            Self::Config => "configuration",
            Self::Dataplane => "dataplane unavailable",
            Self::Busy => "busy",
        })
    }
}
