//! The agent's socket.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};
use sarcenet_agent_api::{
    AttachmentId, ErrorCode, LoggingChange, MAX_KEPT, Reply, Request, VERSION,
};
use sarcenet_dataplane_api::transport::{Connection, Listener, TransportError};
use tracing::{debug, warn};

use crate::agent::{Agent, Failure};
use crate::follow::handover::{Inbox, Taking};

/// Most clients at a time: a cell may start all its containers at once, as after it was restarted.
const CLIENTS: usize = 512;

/// How long a client may keep silent between requests, and how long it may leave a reply unread.
const SILENCE: Duration = Duration::from_mins(1);

/// How long requests that have begun are waited for at the end: longer than any takes.
const FINISHING: Duration = Duration::from_secs(15);

/// Most rule names in one reply.
const RULES: usize = 256;

/// A running server; ends when dropped. Requests that have begun are finished.
#[derive(Debug)]
pub struct Server {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    requests: Arc<Requests>,
}

/// Requests that have come and are not answered yet.
#[derive(Debug, Default)]
struct Requests {
    count: Mutex<usize>,
    answered: Condvar,
}

impl Requests {
    /// One more, for as long as what is returned lives.
    fn begin(&self) -> Begun<'_> {
        *self.count.lock() += 1;
        Begun(self)
    }

    fn finish(&self) {
        let mut count = self.count.lock();
        let late = self.answered.wait_while_for(&mut count, |count| *count > 0, FINISHING);
        if late.timed_out() {
            warn!("{count} requests are cut off: they took too long");
        }
    }
}

struct Begun<'a>(&'a Requests);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.answered.notify_all();
    }
}

impl Server {
    /// Serves the agent on `path`, for root only. What a program beside the agent says of the policy
    /// server goes to `inbox`; without one it is refused.
    pub fn start(
        agent: Arc<Agent>,
        inbox: Option<Arc<Inbox>>,
        path: &Path,
    ) -> Result<Self, TransportError> {
        let listener = Listener::bind(path, 0o600)?;
        let system = |source: std::io::Error| TransportError::Path {
            operation: "serve",
            path: path.to_owned(),
            source,
        };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| system(e.into()))?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let requests = Arc::<Requests>::default();
        let served = Arc::clone(&requests);
        let thread = std::thread::Builder::new()
            .name("server".into())
            .spawn(move || {
                accept(&Behind { agent, inbox, requests: served }, &listener, &stopped);
            })
            .map_err(system)?;
        Ok(Self { stop, thread: Some(thread), requests })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.requests.finish();
    }
}

/// Counts a client for as long as it is served.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What clients speak to.
#[derive(Clone)]
struct Behind {
    agent: Arc<Agent>,
    inbox: Option<Arc<Inbox>>,
    requests: Arc<Requests>,
}

fn accept(behind: &Behind, listener: &Listener, stop: &EventFd) {
    let seats = Arc::new(AtomicUsize::new(0));
    loop {
        let connection = match listener.accept(stop.as_fd()) {
            Ok(Some(connection)) => connection,
            Ok(None) => return,
            Err(e) => {
                // Out of descriptors, most likely: others will be closed.
                warn!("{e}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let taken = seats.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&seats));
        if taken >= CLIENTS {
            turn_away(&connection, ErrorCode::Busy, "the agent serves too many clients already");
            continue;
        }
        let behind = behind.clone();
        let spawned = std::thread::Builder::new().name("client".into()).spawn(move || {
            let _seat = seat;
            if let Err(e) = serve(&behind, &connection) {
                debug!("client: {e}");
                refuse(&connection, ErrorCode::Invalid, &e.to_string());
            }
        });
        if let Err(e) = spawned {
            warn!("cannot serve a client: {e}");
        }
    }
}

/// Says why and lets go; the client may be gone already.
fn refuse(connection: &Connection, code: ErrorCode, message: &str) {
    let _ = connection.send(&Reply::Error { code, message: message.to_owned() }, &[]);
}

/// Refuses a client that is not served at all. Its hello is taken off first: closing a connection
/// with something unread would throw the answer away. It is there as good as always; nobody is
/// waited for long.
fn turn_away(connection: &Connection, code: ErrorCode, message: &str) {
    let moment = Some(Duration::from_millis(20));
    if connection.set_timeouts(moment, moment).is_ok() {
        let _ = connection.recv::<Request>();
    }
    refuse(connection, code, message);
}

/// Serves one client until it goes. An error ends the connection.
fn serve(behind: &Behind, connection: &Connection) -> Result<(), TransportError> {
    let Behind { agent, inbox, requests } = behind;
    connection.set_timeouts(Some(SILENCE), Some(SILENCE))?;
    let uid = connection.peer()?.uid;
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        turn_away(connection, ErrorCode::Invalid, "only root may speak to the agent");
        return Ok(());
    }
    let mut welcome = false;
    let mut taking = None;
    let mut kept = BTreeSet::new();
    while let Some((request, fds)) = connection.recv::<Request>()? {
        let _until_answered = requests.begin();
        let reply = match (&request, welcome) {
            (Request::Hello { version: VERSION }, _) => {
                welcome = true;
                Reply::Hello { version: VERSION, cell: agent.cell_name() }
            }
            (Request::Hello { version }, _) => {
                // Answered with our version, so that the client can name both.
                debug!("a client speaks version {version}");
                Reply::Hello { version: VERSION, cell: agent.cell_name() }
            }
            (_, false) => {
                refuse(connection, ErrorCode::Invalid, "the first message must be a hello");
                return Ok(());
            }
            (Request::FollowedPart { .. } | Request::FollowedEnd(_), true) => {
                take(inbox.as_deref(), &mut taking, request, &fds).unwrap_or_else(Reply::from)
            }
            (Request::GcKeep { .. } | Request::Gc { .. }, true) => {
                collect(agent, &mut kept, request, &fds).unwrap_or_else(Reply::from)
            }
            (_, true) => answer(agent, request, &fds).unwrap_or_else(Reply::from),
        };
        connection.send(&reply, &[])?;
    }
    Ok(())
}

/// Takes what a program beside the agent says. What is `taking` it lasts as long as its connection.
fn take<'a>(
    inbox: Option<&'a Inbox>,
    taking: &mut Option<Taking<'a>>,
    request: Request,
    fds: &[OwnedFd],
) -> Result<Reply, Failure> {
    let inbox = inbox.ok_or_else(|| {
        let message = "this agent is not told what the policy server says: its network file says \
                       where policies come from";
        Failure::new(ErrorCode::Config, message)
    })?;
    check_descriptors(&request, fds)?;
    let taking = match taking {
        Some(taking) => taking,
        none => none.insert(inbox.begin()?),
    };
    match request {
        Request::FollowedPart { bytes } => taking.part(&bytes)?,
        Request::FollowedEnd(problems) => taking.end(problems)?,
        _ => {}
    }
    Ok(Reply::Done)
}

/// Collects what a runtime does not want any more. What it wants may come in parts, which are `kept`
/// for as long as its connection.
fn collect(
    agent: &Agent,
    kept: &mut BTreeSet<AttachmentId>,
    request: Request,
    fds: &[OwnedFd],
) -> Result<Reply, Failure> {
    check_descriptors(&request, fds)?;
    match request {
        Request::GcKeep { valid } => {
            kept.extend(valid);
            if kept.len() > MAX_KEPT {
                let message = format!("more than {MAX_KEPT} interfaces are still wanted");
                return Err(Failure::new(ErrorCode::Invalid, message));
            }
        }
        Request::Gc { network, valid } => {
            let mut wanted = std::mem::take(kept);
            wanted.extend(valid);
            agent.gc(&network, &wanted)?;
        }
        _ => {}
    }
    Ok(Reply::Done)
}

fn check_descriptors(request: &Request, fds: &[OwnedFd]) -> Result<(), Failure> {
    let wanted = usize::from(matches!(request, Request::Add(_) | Request::Check { .. }));
    if fds.len() != wanted {
        let got = fds.len();
        let message =
            format!("the request goes with {wanted} file descriptors, {got} came with it");
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    Ok(())
}

fn answer(agent: &Agent, request: Request, fds: &[OwnedFd]) -> Result<Reply, Failure> {
    check_descriptors(&request, fds)?;
    let netns = fds.first();
    let missing = || Failure::new(ErrorCode::Invalid, "the network namespace is missing");
    Ok(match request {
        Request::Hello { .. } => Reply::Hello { version: VERSION, cell: agent.cell_name() },
        Request::Add(wish) => Reply::Added(agent.add(*wish, netns.ok_or_else(missing)?.as_fd())?),
        Request::Del { id } => agent.del(&id).map(|()| Reply::Done)?,
        Request::Check { id, expected } => {
            agent.check(&id, &expected, netns.ok_or_else(missing)?.as_fd())?;
            Reply::Done
        }
        Request::Extend { id, more } => agent.extend(&id, more).map(|()| Reply::Done)?,
        Request::Containers { after } => {
            let (containers, more) = agent.containers(after);
            Reply::Containers { containers, more }
        }
        Request::Status => Reply::Status(Box::new(agent.status())),
        Request::PolicyAllow(policy) => {
            Reply::Changed { changed: agent.change_policy(&policy, true)? }
        }
        Request::PolicyRevoke(policy) => {
            Reply::Changed { changed: agent.change_policy(&policy, false)? }
        }
        Request::Policies { skip } => {
            let (policies, more) = agent.policies(skip as usize);
            Reply::Policies { policies, more }
        }
        Request::Apps { after } => {
            let (apps, more) = agent.apps(after);
            Reply::Apps { apps, more }
        }
        Request::Rules { ids } if ids.len() > RULES => {
            let message = format!("{} rules at once, at most {RULES} are possible", ids.len());
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        Request::Rules { ids } => Reply::Rules { rules: agent.rules(&ids) },
        Request::Logging(LoggingChange { overlay: None, egress: None }) => {
            Reply::Logging(agent.logging())
        }
        Request::Logging(change) => Reply::Logging(agent.change_logging(change)?),
        Request::Tenants { after } => {
            let (tenants, more) = agent.tenants_after(after.as_ref());
            Reply::Tenants { tenants, more }
        }
        Request::FollowedPart { .. }
        | Request::FollowedEnd(_)
        | Request::GcKeep { .. }
        | Request::Gc { .. } => {
            // Taken before, where it is known which connection says so.
            let message = "nothing is taken here of what comes in parts";
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
    })
}
