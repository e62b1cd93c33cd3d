//! A synchronous client.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use sarcenet_dataplane_api::RuleId;
use sarcenet_dataplane_api::transport::{Connection, TransportError};

use crate::{
    AgentStatus, AppInfo, Attach, Attachment, AttachmentId, ContainerInfo, ErrorCode, Expected,
    Extension, FollowProblems, LoggingChange, LoggingStatus, MAX_PART, Policy, Reply, Request,
    RuleMeaning, Tenant, VERSION, is_container_id,
};

/// How long the agent may take to answer. Longer than the agent itself waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most rules that one [`Request::Rules`] may ask for.
const RULES_AT_ONCE: usize = 256;

/// Most interfaces in one message: they fit a frame with the longest names.
const KEPT_AT_ONCE: usize = 512;

/// Bytes that a device's name takes at most, with the one at its end (`IFNAMSIZ`).
const IFNAME_MAX: usize = 16;

/// Why the agent did not do it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens.
    #[error("{0}; is `sarcenet agent` running, and are you root?")]
    Connect(TransportError),
    /// The conversation broke off.
    #[error("the conversation with the agent failed: {0}")]
    Transport(#[from] TransportError),
    /// The agent went away.
    #[error("the agent closed the connection; its log says why")]
    Closed,
    /// The agent speaks another version.
    #[error(
        "the agent speaks version {agent} and this program version {ours}; restart the agent \
         after an upgrade"
    )]
    Version {
        /// Version of the agent.
        agent: u32,
        /// [`VERSION`].
        ours: u32,
    },
    /// The agent said no.
    #[error("{message}")]
    Refused {
        /// What kind of error.
        code: ErrorCode,
        /// In its words.
        message: String,
    },
    /// The answer belongs to another question.
    #[error("the agent answered something else than was asked")]
    Unexpected,
}

/// A connection to the agent.
#[derive(Debug)]
pub struct AgentClient {
    connection: Connection,
    cell: String,
}

impl AgentClient {
    /// Connects to the socket at `path` (see [`crate::socket_path`]) and compares versions.
    pub fn connect(path: &Path) -> Result<Self, AgentError> {
        let connection = Connection::connect(path).map_err(AgentError::Connect)?;
        connection.set_timeouts(Some(PATIENCE), Some(PATIENCE))?;
        let mut client = Self { connection, cell: String::new() };
        match client.request(&Request::Hello { version: VERSION }, None)? {
            Reply::Hello { version, cell } if version == VERSION => client.cell = cell,
            Reply::Hello { version: agent, .. } => {
                return Err(AgentError::Version { agent, ours: VERSION });
            }
            _ => return Err(AgentError::Unexpected),
        }
        Ok(client)
    }

    /// Name of the agent's cell.
    pub fn cell(&self) -> &str {
        &self.cell
    }

    /// The agent's process: the one that listens on the socket.
    pub fn agent_pid(&self) -> Result<i32, AgentError> {
        Ok(self.connection.peer()?.pid)
    }

    /// Asks anything. [`Reply::Error`] becomes [`AgentError::Refused`].
    pub fn request(
        &mut self,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Reply, AgentError> {
        self.connection.send(request, netns.as_slice())?;
        match self.connection.recv()? {
            Some((Reply::Error { code, message }, _)) => Err(AgentError::Refused { code, message }),
            Some((reply, _)) => Ok(reply),
            None => Err(AgentError::Closed),
        }
    }

    /// [`Request::Add`].
    pub fn add(&mut self, wish: Attach, netns: BorrowedFd<'_>) -> Result<Attachment, AgentError> {
        match self.request(&Request::Add(Box::new(wish)), Some(netns))? {
            Reply::Added(attachment) => Ok(attachment),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// [`Request::Del`].
    pub fn del(&mut self, id: AttachmentId) -> Result<(), AgentError> {
        self.done(&Request::Del { id }, None)
    }

    /// [`Request::Check`].
    pub fn check(
        &mut self,
        id: AttachmentId,
        expected: Expected,
        netns: BorrowedFd<'_>,
    ) -> Result<(), AgentError> {
        self.done(&Request::Check { id, expected }, Some(netns))
    }

    /// [`Request::Extend`].
    pub fn extend(&mut self, id: AttachmentId, more: Extension) -> Result<(), AgentError> {
        self.done(&Request::Extend { id, more }, None)
    }

    /// [`Request::Gc`], with as many [`Request::GcKeep`] before it as it takes.
    pub fn gc(&mut self, network: String, mut valid: Vec<AttachmentId>) -> Result<(), AgentError> {
        // Whatever else a runtime names is not attached here.
        valid.retain(|id| is_container_id(&id.container) && id.ifname.len() < IFNAME_MAX);
        while valid.len() > KEPT_AT_ONCE {
            let some = valid.split_off(valid.len() - KEPT_AT_ONCE);
            self.done(&Request::GcKeep { valid: some }, None)?;
        }
        self.done(&Request::Gc { network, valid }, None)
    }

    /// [`Request::Status`].
    pub fn status(&mut self) -> Result<AgentStatus, AgentError> {
        match self.request(&Request::Status, None)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// All containers, in order of port.
    pub fn containers(&mut self) -> Result<Vec<ContainerInfo>, AgentError> {
        let mut all: Vec<ContainerInfo> = Vec::new();
        loop {
            let after = all.last().map(|last| last.attachment.port);
            match self.request(&Request::Containers { after }, None)? {
                Reply::Containers { containers, more } => {
                    let end = !more || containers.is_empty();
                    all.extend(containers);
                    if end {
                        return Ok(all);
                    }
                }
                _ => return Err(AgentError::Unexpected),
            }
        }
    }

    /// Adds a policy; says whether it was new.
    pub fn allow(&mut self, policy: Policy) -> Result<bool, AgentError> {
        self.changed(&Request::PolicyAllow(policy))
    }

    /// Removes a policy; says whether it was there.
    pub fn revoke(&mut self, policy: Policy) -> Result<bool, AgentError> {
        self.changed(&Request::PolicyRevoke(policy))
    }

    /// All policies, in the order of the file.
    pub fn policies(&mut self) -> Result<Vec<Policy>, AgentError> {
        let mut all = Vec::new();
        loop {
            match self.request(&Request::Policies { skip: all.len() as u32 }, None)? {
                Reply::Policies { policies, more } => {
                    let end = !more || policies.is_empty();
                    all.extend(policies);
                    if end {
                        return Ok(all);
                    }
                }
                _ => return Err(AgentError::Unexpected),
            }
        }
    }

    /// All apps, in order of tag.
    pub fn apps(&mut self) -> Result<Vec<AppInfo>, AgentError> {
        let mut all: Vec<AppInfo> = Vec::new();
        loop {
            let after = all.last().map_or(0, |last| last.tag);
            match self.request(&Request::Apps { after }, None)? {
                Reply::Apps { apps, more } => {
                    let end = !more || apps.is_empty();
                    all.extend(apps);
                    if end {
                        return Ok(all);
                    }
                }
                _ => return Err(AgentError::Unexpected),
            }
        }
    }

    /// What rules of the dataplane stand for; unknown ones are left out.
    pub fn rules(&mut self, ids: &[RuleId]) -> Result<BTreeMap<RuleId, RuleMeaning>, AgentError> {
        let mut all = BTreeMap::new();
        for ids in ids.chunks(RULES_AT_ONCE) {
            match self.request(&Request::Rules { ids: ids.to_vec() }, None)? {
                Reply::Rules { rules } => {
                    all.extend(rules.into_iter().map(|rule| (rule.id, rule.meaning)));
                }
                _ => return Err(AgentError::Unexpected),
            }
        }
        Ok(all)
    }

    /// Changes what is recorded of conversations, if the change names anything, and tells what is.
    pub fn logging(&mut self, change: LoggingChange) -> Result<LoggingStatus, AgentError> {
        match self.request(&Request::Logging(change), None)? {
            Reply::Logging(status) => Ok(status),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Has the agent put a document of what the policy server says in force, which may be empty.
    pub fn followed(
        &mut self,
        document: &[u8],
        problems: FollowProblems,
    ) -> Result<(), AgentError> {
        for part in document.chunks(MAX_PART) {
            self.done(&Request::FollowedPart { bytes: part.to_vec() }, None)?;
        }
        self.done(&Request::FollowedEnd(problems.bounded()), None)
    }

    /// Whose containers the cell has.
    pub fn tenants(&mut self) -> Result<BTreeSet<Tenant>, AgentError> {
        let mut all = BTreeSet::new();
        loop {
            let after = all.last().cloned();
            match self.request(&Request::Tenants { after }, None)? {
                Reply::Tenants { tenants, more } => {
                    let end = !more || tenants.is_empty();
                    all.extend(tenants);
                    if end {
                        return Ok(all);
                    }
                }
                _ => return Err(AgentError::Unexpected),
            }
        }
    }

    fn done(&mut self, request: &Request, netns: Option<BorrowedFd<'_>>) -> Result<(), AgentError> {
        match self.request(request, netns)? {
            Reply::Done => Ok(()),
            _ => Err(AgentError::Unexpected),
        }
    }

    fn changed(&mut self, request: &Request) -> Result<bool, AgentError> {
        match self.request(request, None)? {
            Reply::Changed { changed } => Ok(changed),
            _ => Err(AgentError::Unexpected),
        }
    }
}
