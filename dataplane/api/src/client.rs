//! A synchronous client: the controller's and the observers' side of a connection.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use crate::{
    Cell, Container, EgressSet, FlowInfo, LinkStatus, Peer, PortInfo, Reply, Request, Role, Rule,
    Settings, Status, TraceFilter, Update, VERSION,
    transport::{Connection, TransportError},
};

mod follow;
mod pieces;

pub use follow::{Events, Following, Trace};

/// How long the dataplane may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Flows asked for at a time.
const FLOW_PAGE: u32 = 512;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection.
    #[error("dataplane: {0}")]
    Transport(#[from] TransportError),
    /// The dataplane refused; it changed nothing.
    #[error("the dataplane refused: {0}")]
    Refused(String),
    /// Both ends speak different versions of the messages.
    #[error(
        "the dataplane speaks version {theirs} of the messages, this program {VERSION}; \
         install both from the same release"
    )]
    Version {
        /// The dataplane's.
        theirs: u32,
    },
    /// An answer that does not belong to the request.
    #[error("the dataplane sent {got} in answer to {asked}")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came.
        got: String,
    },
    /// The number of descriptors does not go with the message.
    #[error("{asked} needs {expected} file descriptors, not {got}")]
    Descriptors {
        /// The message.
        asked: &'static str,
        /// How many it needs.
        expected: usize,
        /// How many there were.
        got: usize,
    },
}

/// The whole desired state, for [`Client::snapshot`].
#[derive(Debug, Default)]
pub struct Snapshot<'a> {
    /// The cell, and the descriptor of its host TUN.
    pub cell: Option<(Cell, Option<BorrowedFd<'a>>)>,
    /// All other cells.
    pub peers: Vec<Peer>,
    /// All containers, each with its TUN queue.
    pub containers: Vec<(Container, BorrowedFd<'a>)>,
    /// All rules.
    pub rules: Vec<Rule>,
    /// All sets of egress rules.
    pub egress: Vec<EgressSet>,
    /// What containers may do beyond the rules.
    pub settings: Vec<Settings>,
}

/// A connection to a dataplane.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    generation: u64,
}

impl Client {
    /// Connects to the dataplane's socket at `path` and says hello.
    pub fn connect(path: &Path, role: Role) -> Result<Self, ClientError> {
        Self::over(Connection::connect(path)?, role)
    }

    /// Says hello over a connection that is there already.
    pub fn over(connection: Connection, role: Role) -> Result<Self, ClientError> {
        connection.set_timeouts(Some(PATIENCE), Some(PATIENCE))?;
        let mut client = Self { connection, generation: 0 };
        match client.request(&Request::Hello { version: VERSION, role }, &[])? {
            (Reply::Hello { version: VERSION, generation }, _) => {
                client.generation = generation;
                Ok(client)
            }
            (Reply::Hello { version, .. }, _) => Err(ClientError::Version { theirs: version }),
            (other, _) => Err(unexpected("hello", &other)),
        }
    }

    /// Last generation that the dataplane told this client; 0 means that it has no state yet and
    /// waits for a snapshot.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes the next generation larger than `generation` too. For a controller that has seen
    /// larger ones: flows that outlived a dataplane carry the one they were decided under.
    pub fn continue_from(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Sends a request and waits for its answer. [`Reply::Error`] becomes
    /// [`ClientError::Refused`].
    pub fn request(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        match self.connection.send(request, fds) {
            // Its last words, which say why, may be waiting.
            Ok(()) | Err(TransportError::Closed) => {}
            Err(e) => return Err(e.into()),
        }
        match self.connection.recv()?.ok_or(TransportError::Closed)? {
            (Reply::Error { message }, _) => Err(ClientError::Refused(message)),
            answer => Ok(answer),
        }
    }

    /// Replaces the dataplane's whole state. Returns the generation then in force.
    pub fn snapshot(&mut self, snapshot: &Snapshot<'_>) -> Result<u64, ClientError> {
        let (cell, host) = snapshot.cell.clone().unzip();
        let update = Update {
            cell,
            peers: snapshot.peers.clone(),
            containers: snapshot
                .containers
                .iter()
                .map(|(container, _)| container.clone())
                .collect(),
            rules: snapshot.rules.clone(),
            egress: snapshot.egress.clone(),
            settings: snapshot.settings.clone(),
            ..Update::default()
        };
        let fds: Vec<_> = host
            .flatten()
            .into_iter()
            .chain(snapshot.containers.iter().map(|&(_, fd)| fd))
            .collect();
        self.acknowledged("a snapshot's begin", &Request::SnapshotBegin, &[])?;
        // Pieces of a snapshot come into force together, so they share one generation.
        let generation = self.generation + 1;
        self.in_pieces(update, &fds, |_| generation)?;
        self.generation = self.acknowledged("a snapshot's end", &Request::SnapshotEnd, &[])?;
        Ok(self.generation)
    }

    /// Puts a change in force; `fds` are the host TUN's (if `update.cell` says so) and one for
    /// each of its containers. Its generation is set here. A change too large for one frame goes
    /// in several, each in force by itself, removals before additions; should one be refused, the
    /// earlier ones stay and a snapshot mends it. Returns the generation then in force.
    pub fn apply(&mut self, update: Update, fds: &[BorrowedFd<'_>]) -> Result<u64, ClientError> {
        self.in_pieces(update, fds, |generation| generation + 1)?;
        Ok(self.generation)
    }

    /// Sends `update` in pieces, each under the generation that `next` makes of the current one.
    fn in_pieces(
        &mut self,
        update: Update,
        fds: &[BorrowedFd<'_>],
        next: impl Fn(u64) -> u64,
    ) -> Result<(), ClientError> {
        let expected = pieces::descriptors(&update);
        if fds.len() != expected {
            return Err(ClientError::Descriptors { asked: "an update", expected, got: fds.len() });
        }
        let mut fds = fds.iter();
        for mut piece in pieces::cut(update) {
            piece.generation = next(self.generation);
            let own: Vec<_> = fds.by_ref().take(pieces::descriptors(&piece)).copied().collect();
            let request = Request::Update(Box::new(piece));
            self.generation = self.acknowledged("an update", &request, &own)?;
        }
        Ok(())
    }

    /// How the dataplane is.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        match self.request(&Request::Status, &[])? {
            (Reply::Status(status), _) => Ok(Status { links: self.links()?, ..*status }),
            (other, _) => Err(unexpected("status", &other)),
        }
    }

    /// All links. One that comes or goes meanwhile may be missing.
    fn links(&mut self) -> Result<Vec<LinkStatus>, ClientError> {
        let mut all: Vec<LinkStatus> = Vec::new();
        loop {
            let after = all.last().and_then(|last| last.port);
            match self.request(&Request::Links { after }, &[])? {
                (Reply::Links { links, more }, _) => {
                    let port = links.last().and_then(|last| last.port);
                    all.extend(links);
                    // Whoever has more behind a page can say behind which port.
                    if !more || port.is_none() || port <= after {
                        return Ok(all);
                    }
                }
                (other, _) => return Err(unexpected("links", &other)),
            }
        }
    }

    /// All flows. The table changes while it is read: a flow may be missing or come twice.
    pub fn flows(&mut self) -> Flows<'_> {
        Flows { client: self, page: Vec::new().into_iter(), next: Some(0) }
    }

    /// All container ports that the dataplane holds, with duplicates of their descriptors.
    pub fn ports(&mut self) -> Result<Vec<(PortInfo, OwnedFd)>, ClientError> {
        let mut all: Vec<(PortInfo, OwnedFd)> = Vec::new();
        loop {
            let after = all.last().map(|(info, _)| info.port);
            let (ports, more, fds) = match self.request(&Request::Ports { after }, &[])? {
                (Reply::Ports { ports, more }, fds) => (ports, more, fds),
                (other, _) => return Err(unexpected("ports", &other)),
            };
            if ports.len() != fds.len() || (more && ports.is_empty()) {
                let (expected, got) = (ports.len(), fds.len());
                return Err(ClientError::Descriptors { asked: "a page of ports", expected, got });
            }
            all.extend(ports.into_iter().zip(fds));
            if !more {
                return Ok(all);
            }
        }
    }

    /// A duplicate of the host TUN's descriptor, if the dataplane holds it.
    pub fn host(&mut self) -> Result<Option<OwnedFd>, ClientError> {
        match self.request(&Request::Host, &[])? {
            (Reply::Host { held }, mut fds) if fds.len() == usize::from(held) => Ok(fds.pop()),
            (Reply::Host { held }, fds) => Err(ClientError::Descriptors {
                asked: "the host's answer",
                expected: usize::from(held),
                got: fds.len(),
            }),
            (other, _) => Err(unexpected("host", &other)),
        }
    }

    /// Follows packets that match `filter`. Takes the connection over: it ends when this does.
    pub fn trace(mut self, filter: TraceFilter) -> Result<Trace, ClientError> {
        self.acknowledged("trace", &Request::Trace(filter), &[])?;
        Following::over(self.connection)
    }

    /// Follows what is recorded as events. Takes the connection over: it ends when this does.
    pub fn events(mut self) -> Result<Events, ClientError> {
        self.acknowledged("events", &Request::Events, &[])?;
        Following::over(self.connection)
    }

    fn acknowledged(
        &mut self,
        asked: &'static str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<u64, ClientError> {
        match self.request(request, fds)? {
            (Reply::Ack { generation }, _) => Ok(generation),
            (other, _) => Err(unexpected(asked, &other)),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// The flow table, page by page. Ends after the first error.
#[derive(Debug)]
pub struct Flows<'a> {
    client: &'a mut Client,
    page: std::vec::IntoIter<FlowInfo>,
    next: Option<u64>,
}

impl Iterator for Flows<'_> {
    type Item = Result<FlowInfo, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(flow) = self.page.next() {
                return Some(Ok(flow));
            }
            let cursor = self.next.take()?;
            match self.client.request(&Request::Flows { cursor, limit: FLOW_PAGE }, &[]) {
                Ok((Reply::Flows { flows, next }, _)) => {
                    self.page = flows.into_iter();
                    self.next = next;
                }
                Ok((other, _)) => return Some(Err(unexpected("flows", &other))),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

fn unexpected(asked: &'static str, got: &Reply) -> ClientError {
    let mut got = format!("{got:?}");
    got.truncate(got.find([' ', '{', '(']).unwrap_or(got.len()));
    ClientError::Unexpected { asked, got }
}

#[cfg(test)]
mod tests;
