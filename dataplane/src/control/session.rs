//! One connection: who is there, what is asked, what is answered.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sarcenet_dataplane_api::{
    Reply, Request, Role, Status, TraceFilter, Update, VERSION,
    codec::CodecError,
    transport::{Connection, MAX_FDS, TransportError},
};
use tracing::{debug, info};

use super::{
    desired::Invalid,
    doors::Doors,
    engine::{ApplyError, Staged},
    server::{SessionId, Sessions},
};

/// How long a new connection may take for its hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer may wait for its reader.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// Most flows in one answer.
const FLOW_PAGE: u32 = 512;

/// Most ports in one answer, each with a descriptor.
const PORT_PAGE: usize = MAX_FDS;

/// Most links in one answer: their names and modes fit a frame always.
const LINK_PAGE: usize = 128;

/// Most traced packets in one message.
const WALK_PAGE: usize = 64;

/// How often a trace looks whether its reader is still there.
const TRACE_TICK: Duration = Duration::from_millis(200);

/// Most events in one message.
const EVENT_PAGE: usize = 1024;

/// How often events are looked for. Workers wake nobody for them.
const EVENT_TICK: Duration = Duration::from_millis(100);

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("only root and the dataplane's own user may speak to it, not user {0}")]
    Stranger(u32),
    #[error("the first message must be hello")]
    NoHello,
    #[error("hello was said already")]
    HelloAgain,
    #[error(
        "this dataplane speaks version {VERSION} of the messages, the program that asks speaks \
         {0}; install both from the same release"
    )]
    Version(u32),
    #[error("only a controller may change state")]
    NotController,
    #[error("another controller has taken over")]
    TakenOver,
    #[error("{0} need a connection of their own, as an observer")]
    ByController(&'static str),
    #[error("there is no snapshot to end")]
    NoSnapshot,
    #[error("an earlier piece of this snapshot was refused; begin again")]
    Spoiled,
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An answer that fits no frame.
    #[error("cannot answer: {0}")]
    Answer(CodecError),
    /// Bytes that are no request.
    #[error("{0}")]
    Garbage(TransportError),
}

impl Refusal {
    /// Whether there is nothing more to say to this peer.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Stranger(_)
                | Self::NoHello
                | Self::Version(_)
                | Self::TakenOver
                | Self::Garbage(_)
        )
    }
}

/// Where a controller is in its snapshot.
#[derive(Default)]
enum Snapshot {
    /// Not in one: updates are changes.
    #[default]
    Outside,
    /// Updates are pieces.
    Open(Box<Staged>),
    /// A piece was refused: nothing until its end is taken for a change.
    Spoiled,
}

/// What to do after a request.
enum Answer {
    Reply(Reply, Vec<OwnedFd>),
    Trace(TraceFilter),
    Events,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply, Vec::new())
    }
}

struct Session<'a, D> {
    sessions: &'a Sessions<D>,
    id: SessionId,
    role: Role,
    snapshot: Snapshot,
}

/// Talks until either side has enough.
pub(super) fn run<D: Doors>(
    sessions: &Sessions<D>,
    id: SessionId,
    connection: &Connection,
) -> Result<(), TransportError> {
    connection.set_timeouts(Some(HELLO_PATIENCE), Some(SEND_PATIENCE))?;
    let role = match greet(connection) {
        Ok(Some(Ok(role))) => role,
        Ok(Some(Err(refusal))) => return send_refusal(connection, &refusal),
        Ok(None) => return Ok(()),
        Err(e) => return Err(e),
    };
    if role == Role::Controller {
        sessions.take_control(id);
        info!(peer = ?connection.peer()?, "controller connected");
    }
    connection.set_timeouts(None, Some(SEND_PATIENCE))?;
    let generation = sessions.engine.generation();
    connection.send(&Reply::Hello { version: VERSION, generation }, &[])?;
    Session { sessions, id, role, snapshot: Snapshot::default() }.talk(connection)
}

type Received = Result<(Request, Vec<OwnedFd>), Refusal>;

/// The next request; a peer that sends anything else gets told.
fn receive(connection: &Connection) -> Result<Option<Received>, TransportError> {
    match connection.recv() {
        Ok(received) => Ok(received.map(Ok)),
        Err(
            e @ (TransportError::Codec(_)
            | TransportError::FrameTooLong
            | TransportError::DescriptorsLost
            | TransportError::TooManyDescriptors { .. }),
        ) => Ok(Some(Err(Refusal::Garbage(e)))),
        Err(e) => Err(e),
    }
}

fn greet(connection: &Connection) -> Result<Option<Result<Role, Refusal>>, TransportError> {
    let uid = connection.peer()?.uid;
    // A stranger's hello is taken off too: closing a connection with something unread would throw
    // the answer away.
    let received = receive(connection)?;
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Ok(Some(Err(Refusal::Stranger(uid))));
    }
    Ok(received.map(|received| match received {
        Ok((Request::Hello { version: VERSION, role }, _)) => Ok(role),
        Ok((Request::Hello { version, .. }, _)) => Err(Refusal::Version(version)),
        Ok(_) => Err(Refusal::NoHello),
        Err(refusal) => Err(refusal),
    }))
}

fn send_refusal(connection: &Connection, refusal: &Refusal) -> Result<(), TransportError> {
    debug!("refused: {refusal}");
    connection.send(&Reply::Error { message: refusal.to_string() }, &[])
}

impl<D: Doors> Session<'_, D> {
    fn talk(&mut self, connection: &Connection) -> Result<(), TransportError> {
        while let Some(received) = receive(connection)? {
            let answer = received.and_then(|(request, fds)| self.answer(request, fds));
            match answer {
                Ok(Answer::Reply(reply, fds)) => {
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    match connection.send(&reply, &fds) {
                        Err(TransportError::Codec(e)) => {
                            send_refusal(connection, &Refusal::Answer(e))?;
                        }
                        sent => sent?,
                    }
                }
                Ok(Answer::Trace(filter)) => return self.trace(connection, filter),
                Ok(Answer::Events) => return self.events(connection),
                Err(refusal) => {
                    send_refusal(connection, &refusal)?;
                    if refusal.is_final() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        let engine = &self.sessions.engine;
        if !fds.is_empty() && !matches!(request, Request::Update(_)) {
            return Err(Invalid::Descriptors { expected: 0, got: fds.len() }.into());
        }
        match request {
            Request::Hello { .. } => Err(Refusal::HelloAgain),
            Request::SnapshotBegin => {
                self.check_controller()?;
                self.snapshot = Snapshot::Open(Box::default());
                Ok(self.acknowledgement().into())
            }
            Request::Update(update) => self.update(&update, fds),
            Request::SnapshotEnd => {
                self.check_controller()?;
                match std::mem::take(&mut self.snapshot) {
                    Snapshot::Outside => Err(Refusal::NoSnapshot),
                    Snapshot::Spoiled => Err(Refusal::Spoiled),
                    Snapshot::Open(staged) => {
                        let _control = self.sessions.control(self.id).ok_or(Refusal::TakenOver)?;
                        let generation = engine.complete(*staged)?;
                        Ok(Reply::Ack { generation }.into())
                    }
                }
            }
            Request::Ports { after } => {
                let (reply, fds) = engine.ports(after, PORT_PAGE);
                Ok(Answer::Reply(reply, fds))
            }
            Request::Host => {
                let (reply, fds) = engine.host();
                Ok(Answer::Reply(reply, fds))
            }
            Request::Status => {
                let status = Status { links: Vec::new(), ..engine.status() };
                Ok(Reply::Status(Box::new(status)).into())
            }
            Request::Links { after } => Ok(engine.links(after, LINK_PAGE).into()),
            Request::Flows { cursor, limit } => {
                Ok(engine.flows(cursor, limit.clamp(1, FLOW_PAGE) as usize).into())
            }
            Request::Trace(_) if self.role == Role::Controller => {
                Err(Refusal::ByController("traces"))
            }
            Request::Trace(filter) => Ok(Answer::Trace(filter)),
            Request::Events if self.role == Role::Controller => {
                Err(Refusal::ByController("events"))
            }
            Request::Events => Ok(Answer::Events),
        }
    }

    fn update(&mut self, update: &Update, fds: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        self.check_controller()?;
        match &mut self.snapshot {
            Snapshot::Outside => {
                let _control = self.sessions.control(self.id).ok_or(Refusal::TakenOver)?;
                let generation = self.sessions.engine.update(update, fds)?;
                Ok(Reply::Ack { generation }.into())
            }
            Snapshot::Open(staged) => {
                if let Err(invalid) = staged.add(update, fds) {
                    self.snapshot = Snapshot::Spoiled;
                    return Err(invalid.into());
                }
                Ok(self.acknowledgement().into())
            }
            Snapshot::Spoiled => Err(Refusal::Spoiled),
        }
    }

    fn check_controller(&self) -> Result<(), Refusal> {
        if self.role == Role::Controller { Ok(()) } else { Err(Refusal::NotController) }
    }

    fn acknowledgement(&self) -> Reply {
        Reply::Ack { generation: self.sessions.engine.generation() }
    }

    /// Sends walks until the reader goes, or does not read for too long. What it does not take in
    /// time is thrown away and counted by the hub.
    fn trace(&self, connection: &Connection, filter: TraceFilter) -> Result<(), TransportError> {
        let observer = self.sessions.engine.shared().trace.observe(filter);
        self.follow(connection, Duration::ZERO, || {
            let walks = observer.wait(TRACE_TICK, WALK_PAGE);
            let lost = observer.take_lost();
            (!walks.is_empty() || lost > 0).then_some(Reply::Walks { walks, lost })
        })
    }

    /// Sends events in the same way.
    fn events(&self, connection: &Connection) -> Result<(), TransportError> {
        let engine = &self.sessions.engine;
        let observer = engine.shared().events.observe();
        self.follow(connection, EVENT_TICK, || {
            let (events, lost) = observer.take(started_ns(engine.doors()), EVENT_PAGE);
            (!events.is_empty() || lost > 0).then_some(Reply::Events { events, lost })
        })
    }

    /// Acknowledges, then sends what `next` gives until the reader goes. Pauses when it gives
    /// nothing.
    fn follow(
        &self,
        connection: &Connection,
        pause: Duration,
        mut next: impl FnMut() -> Option<Reply>,
    ) -> Result<(), TransportError> {
        connection.send(&self.acknowledgement(), &[])?;
        let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO);
        loop {
            let reply = next();
            let timeout = if reply.is_some() { PollTimeout::ZERO } else { pause };
            if let Some(reply) = reply {
                connection.send(&reply, &[])?;
            }
            let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
            // Whatever it is, a word or the end: nothing is to be said meanwhile.
            if poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
                return Ok(());
            }
        }
    }
}

/// When the dataplane's clock started, in nanoseconds since 1970, by the system's clock as it is
/// set now.
fn started_ns(doors: &impl Doors) -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (unix.as_nanos() as u64).saturating_sub(doors.now_ns())
}
