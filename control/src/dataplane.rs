//! The connection to the dataplane: one thread that keeps it alive and up to date.
//!
//! It connects (with back-off), asks which descriptors the dataplane holds and hands them to the
//! agent, which may have lost its own in a restart, sends the whole desired state, and from then
//! on what changes. A dataplane that dies is noticed at once, because the thread waits on the
//! connection too; the next one gets everything again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Condvar, Mutex};
use sarcenet_agent_api::DataplaneState;
use sarcenet_dataplane_api::client::{Client, ClientError};
use sarcenet_dataplane_api::{PortId, PortInfo, Role};
use tracing::{debug, info, warn};

use crate::desired::Desired;

/// First and longest pause between attempts to connect. The longest is short, because a socket
/// that is not there costs next to nothing to ask for.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// What a dataplane held when it was connected to.
#[derive(Debug)]
pub struct Held {
    /// The host TUN's queue.
    pub host: Option<OwnedFd>,
    /// The containers' queues.
    pub ports: Vec<(PortInfo, OwnedFd)>,
}

/// Called on the connection's thread with what the dataplane holds. Publishes the desired state,
/// with those descriptors in it, before it returns.
pub type Adopt = Box<dyn Fn(Held) + Send>;

/// What the thread shall reach, and what it has reached.
#[derive(Debug)]
pub struct Dataplane {
    state: Mutex<State>,
    changed: Condvar,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    desired: Option<Arc<Desired>>,
    /// Counts publications of desired states.
    version: u64,
    /// The last one that is in force.
    acknowledged_version: u64,
    in_force: Option<Arc<Desired>>,
    ready: bool,
    generation: u64,
    error: Option<String>,
    /// Publications up to this one were refused.
    refused_version: u64,
    stop: bool,
}

/// The dataplane did not follow.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the dataplane has not taken the change: {0}; is sarcenet-dataplane running?")]
pub struct NotInForce(String);

impl Dataplane {
    /// Nothing is desired yet, and nobody connected.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let state = State { error: Some("not connected yet".into()), ..State::default() };
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        }))
    }

    /// Starts the thread for the dataplane's socket. It ends after [`Self::stop`].
    pub fn start(
        self: &Arc<Self>,
        socket: PathBuf,
        adopt: Adopt,
    ) -> std::io::Result<JoinHandle<()>> {
        let keeper = Keeper { shared: Arc::clone(self), socket, adopt };
        std::thread::Builder::new().name("dataplane".into()).spawn(move || keeper.run())
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.wake();
    }

    /// Makes `desired` the state to be reached. Returns the number to [`Self::wait`] for.
    pub fn publish(&self, desired: Desired) -> u64 {
        let version = {
            let mut state = self.state.lock();
            state.desired = Some(Arc::new(desired));
            state.version += 1;
            state.version
        };
        self.wake();
        version
    }

    /// Waits until what was published under `version`, or later, is in force.
    pub fn wait(&self, version: u64, patience: Duration) -> Result<(), NotInForce> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        let mut timed_out = false;
        loop {
            if state.acknowledged_version >= version {
                return Ok(());
            }
            if state.refused_version >= version || timed_out {
                let reason = state.error.clone();
                return Err(NotInForce(reason.unwrap_or_else(|| "it is busy".into())));
            }
            timed_out = self.changed.wait_until(&mut state, deadline).timed_out();
        }
    }

    /// Whether the dataplane has that port with that queue.
    pub fn has(&self, port: PortId, queue: &Arc<OwnedFd>) -> bool {
        let state = self.state.lock();
        state.ready && state.in_force.as_ref().is_some_and(|desired| desired.has(port, queue))
    }

    /// Whether a dataplane is there that had the whole state once; it may lack the newest change.
    pub fn connected(&self) -> bool {
        self.state.lock().ready
    }

    /// How the connection is.
    pub fn state(&self) -> DataplaneState {
        let state = self.state.lock();
        DataplaneState {
            ready: state.ready && state.acknowledged_version == state.version,
            generation: state.generation,
            error: state.error.clone(),
        }
    }

    fn wake(&self) {
        // It cannot fail but by overflow of its 64 bits, and then it is readable.
        let _ = self.wake.write(1);
    }

    /// Rules in the desired state.
    pub fn rules(&self) -> usize {
        self.state.lock().desired.as_ref().map_or(0, |desired| desired.rules())
    }
}

struct Keeper {
    shared: Arc<Dataplane>,
    socket: PathBuf,
    adopt: Adopt,
}

/// Why the thread's work ended.
enum End {
    Stopped,
    Lost(String),
}

impl Keeper {
    fn run(self) {
        let mut pause = BACK_OFF.0;
        loop {
            let reason = match self.serve(&mut pause) {
                End::Stopped => return,
                End::Lost(reason) => reason,
            };
            {
                let mut state = self.shared.state.lock();
                if std::mem::take(&mut state.ready) {
                    warn!("dataplane lost: {reason}");
                } else {
                    debug!("dataplane not reached: {reason}");
                }
                state.in_force = None;
                state.acknowledged_version = 0;
                state.error = Some(reason);
                self.shared.changed.notify_all();
            }
            if self.pause(pause) {
                return;
            }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    }

    /// Sleeps; true when the thread shall end. What is published meanwhile does not cut it short:
    /// the dataplane is not there to take it.
    fn pause(&self, pause: Duration) -> bool {
        let mut state = self.shared.state.lock();
        let deadline = Instant::now() + pause;
        while !state.stop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            drop(state);
            let timeout = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let mut fds = [PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(timeout));
            let _ = self.shared.wake.read();
            state = self.shared.state.lock();
        }
        state.stop
    }

    /// Serves one connection until it breaks.
    fn serve(&self, pause: &mut Duration) -> End {
        match self.converse(pause) {
            Ok(end) => end,
            Err(error) => End::Lost(error.to_string()),
        }
    }

    fn converse(&self, pause: &mut Duration) -> Result<End, ClientError> {
        let mut client = Client::connect(&self.socket, Role::Controller)?;
        // Generations never go back, whichever of the two was restarted: flows that outlived a
        // dataplane carry the one under which they were decided.
        client.continue_from(self.shared.state.lock().generation);
        let (host, ports) = (client.host()?, client.ports()?);
        (self.adopt)(Held { host, ports });
        let mut in_force = match self.wanted(0) {
            Some((version, desired)) => {
                let generation = client.snapshot(&desired.snapshot()).inspect_err(|e| {
                    self.refused(version, e);
                })?;
                info!(generation, rules = desired.rules(), "dataplane has the whole state");
                self.acknowledge(version, generation, &desired);
                (version, desired)
            }
            None => return Ok(End::Stopped),
        };
        *pause = BACK_OFF.0;
        loop {
            if self.shared.state.lock().stop {
                return Ok(End::Stopped);
            }
            if let Some((version, desired)) = self.wanted(in_force.0) {
                let change = desired.since(&in_force.1);
                let generation = if change.is_empty() {
                    client.generation()
                } else {
                    let fds = change.fds();
                    client.apply(change.update.clone(), &fds).inspect_err(|e| {
                        self.refused(version, e);
                    })?
                };
                self.acknowledge(version, generation, &desired);
                in_force = (version, desired);
                continue;
            }
            let mut fds = [
                PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(client.as_fd(), PollFlags::POLLIN),
            ];
            let polled = poll(&mut fds, PollTimeout::NONE);
            let (woken, spoken) = (fds[0].any(), fds[1].any());
            if matches!(polled, Err(e) if e != nix::Error::EINTR) {
                return Ok(End::Lost("cannot wait for the dataplane".into()));
            }
            if spoken == Some(true) {
                // It never speaks first: it has gone, or another controller has taken over.
                return Ok(End::Lost("the dataplane closed the connection".into()));
            }
            if woken == Some(true) {
                let _ = self.shared.wake.read();
            }
        }
    }

    /// The desired state, if it is newer than `version`.
    fn wanted(&self, version: u64) -> Option<(u64, Arc<Desired>)> {
        let state = self.shared.state.lock();
        if state.version == version {
            return None;
        }
        state.desired.clone().map(|desired| (state.version, desired))
    }

    fn acknowledge(&self, version: u64, generation: u64, desired: &Arc<Desired>) {
        let mut state = self.shared.state.lock();
        state.acknowledged_version = version;
        state.in_force = Some(Arc::clone(desired));
        state.generation = generation;
        state.ready = true;
        state.error = None;
        self.shared.changed.notify_all();
    }

    fn refused(&self, version: u64, error: &ClientError) {
        if let ClientError::Refused(_) = error {
            let mut state = self.shared.state.lock();
            state.refused_version = version;
            state.error = Some(error.to_string());
            warn!("{error}");
            self.shared.changed.notify_all();
        }
    }
}
