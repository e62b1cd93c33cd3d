//! Records of conversations, admitted and refused, as lines of JSON in a file.
//!
//! One thread follows the dataplane's events for as long as anything is to be recorded, and
//! nobody waits for it: what it cannot write in time is lost, counted, and said in the file.

mod file;
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use sarcenet_dataplane_api::client::{Client, ClientError};
use sarcenet_dataplane_api::transport::Connection;
use sarcenet_dataplane_api::{Event, Role};
use tracing::{debug, info, warn};

pub use file::{AppendError, Bounds, LineFile};
use record::Lost;
pub use record::{ContainerFacts, Record};

/// Pause before the dataplane is asked again.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Puts events into the words of the platform. Called on the thread of [`EventWriter::start`].
pub type Describe = Box<dyn Fn(&[Event]) -> Vec<Record> + Send>;

/// How the writer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events written since the start.
    pub written: u64,
    /// Events that could not be, or that the dataplane had no room for.
    pub lost: u64,
    /// Why events are not being written.
    pub problem: Option<String>,
}

/// What the thread shall do, and what it has done.
#[derive(Debug, Default)]
pub struct EventWriter {
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Where to write; nothing is to be recorded if nowhere.
    wanted: Option<PathBuf>,
    stop: bool,
    /// The connection that is being followed.
    connection: Option<Connection>,
    progress: Progress,
}

impl State {
    /// Ends the connection, and with it the wait for its next events.
    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // One that has ended by itself is as good.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl EventWriter {
    /// Starts the thread for the dataplane's socket; it ends with [`Self::stop`].
    pub fn start(
        self: &Arc<Self>,
        socket: PathBuf,
        cell: String,
        bounds: Bounds,
        describe: Describe,
    ) -> std::io::Result<()> {
        let follower = Follower { shared: Arc::clone(self), socket, cell, bounds, describe };
        let thread =
            std::thread::Builder::new().name("events".into()).spawn(move || follower.run())?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub fn stop(&self) {
        {
            let mut state = self.state.lock();
            state.stop = true;
            state.disconnect();
        }
        self.changed.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            warn!("the thread that writes events had panicked");
        }
    }

    /// Writes events to the file at `path` from now on, or none.
    pub fn want(&self, path: Option<&Path>) {
        let mut state = self.state.lock();
        if state.wanted.as_deref() != path {
            state.wanted = path.map(Path::to_owned);
            if path.is_none() {
                state.progress.problem = None;
                state.disconnect();
            }
            self.changed.notify_all();
        }
    }

    /// How it is doing.
    pub fn progress(&self) -> Progress {
        self.state.lock().progress.clone()
    }
}

struct Follower {
    shared: Arc<EventWriter>,
    socket: PathBuf,
    cell: String,
    bounds: Bounds,
    describe: Describe,
}

impl Follower {
    fn run(self) {
        while self.wait_until_wanted() {
            match self.follow() {
                Ok(()) => debug!("the dataplane tells no more events"),
                Err(error) => {
                    debug!("cannot follow events: {error}");
                    if let ClientError::Refused(_) = error {
                        self.trouble(0, error.to_string());
                    }
                }
            }
            let mut state = self.shared.state.lock();
            state.connection = None;
            if !state.stop {
                self.shared.changed.wait_for(&mut state, BACK_OFF);
            }
        }
    }

    /// False when the thread shall end.
    fn wait_until_wanted(&self) -> bool {
        let mut state = self.shared.state.lock();
        while !state.stop && state.wanted.is_none() {
            self.shared.changed.wait(&mut state);
        }
        !state.stop
    }

    /// Writes what one connection tells, until it ends.
    fn follow(&self) -> Result<(), ClientError> {
        let events = Client::connect(&self.socket, Role::Observer)?.events()?;
        let mut file = {
            let mut state = self.shared.state.lock();
            let Some(path) = state.wanted.clone().filter(|_| !state.stop) else { return Ok(()) };
            state.connection = Some(events.handle()?);
            LineFile::new(path, self.bounds)
        };
        debug!("events are being followed");
        for page in events {
            let (events, lost) = page?;
            let Some(path) = self.shared.state.lock().wanted.clone() else { break };
            if path != file.path() {
                file = LineFile::new(path, self.bounds);
            }
            self.write(&mut file, &events, lost);
        }
        Ok(())
    }

    fn write(&self, file: &mut LineFile, events: &[Event], lost: u64) {
        let mut lines = Vec::with_capacity(512 * events.len());
        let mut unwritten = lost;
        if lost > 0 {
            let line = Lost::now(&self.cell, lost);
            // Without this note there is still the count.
            let _ = record::append_line(&mut lines, &line);
        }
        for record in (self.describe)(events) {
            unwritten += u64::from(record::append_line(&mut lines, &record).is_err());
        }
        match file.append(&lines) {
            Ok(()) => self.done(events.len() as u64, unwritten),
            Err(error) => {
                let failed = error.lines.min(events.len() as u64);
                self.done_in_part(events.len() as u64 - failed, unwritten + failed, &error);
            }
        }
    }

    fn done(&self, written: u64, lost: u64) {
        let mut state = self.shared.state.lock();
        state.progress.written += written;
        state.progress.lost += lost;
        if state.progress.problem.take().is_some() {
            info!(lost = state.progress.lost, "events are written again");
        }
    }

    fn done_in_part(&self, written: u64, lost: u64, error: &AppendError) {
        self.shared.state.lock().progress.written += written;
        self.trouble(lost, error.to_string());
    }

    fn trouble(&self, lost: u64, problem: String) {
        let mut state = self.shared.state.lock();
        state.progress.lost += lost;
        if state.progress.problem.is_none() {
            warn!("events are lost: {problem}");
        }
        state.progress.problem = Some(problem);
    }
}
