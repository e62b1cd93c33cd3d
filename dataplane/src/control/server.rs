//! Accepts connections, and knows which of them is the controller's.

use std::{
    collections::HashMap,
    io::{self, PipeWriter},
    net::Shutdown,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sarcenet_dataplane_api::{
    Reply,
    transport::{Connection, Listener, TransportError},
};
use tracing::{debug, info, warn};

use super::{doors::Doors, engine::Engine, session, tending::Tending};

/// Most connections at a time; each has a thread.
pub const MAX_CONNECTIONS: usize = 64;

/// Pause after a failed accept, which is for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long [`Server::stop`] waits for connections to end.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The number of a connection, never used twice.
pub(super) type SessionId = u64;

/// What all connections share.
pub(super) struct Sessions<D> {
    pub(super) engine: Arc<Engine<D>>,
    open: Mutex<HashMap<SessionId, Connection>>,
    controller: Mutex<Option<SessionId>>,
    next: AtomicU64,
}

impl<D: Doors> Sessions<D> {
    /// Makes `id` the controller and closes the connection of the one before. Returns once
    /// nothing of that one is being put in force any more.
    pub(super) fn take_control(&self, id: SessionId) {
        let before = self.controller.lock().replace(id);
        if let Some(before) = before.filter(|&before| before != id)
            && let Some(connection) = self.open.lock().get(&before)
        {
            info!("a new controller takes over");
            // The thread at the other end of this handle sees the end and goes.
            if let Err(e) = connection.shutdown(Shutdown::Both) {
                warn!("cannot close the former controller's connection: {e}");
            }
        }
    }

    /// The right to change state for as long as it is held; none when another controller has
    /// taken over.
    pub(super) fn control(&self, id: SessionId) -> Option<impl Sized> {
        let controller = self.controller.lock();
        (*controller == Some(id)).then_some(controller)
    }

    fn end(&self, id: SessionId) {
        {
            let mut controller = self.controller.lock();
            if *controller == Some(id) {
                *controller = None;
                info!("the controller is gone; the state in force stays");
            }
        }
        self.open.lock().remove(&id);
    }

    /// Gives the connection a thread, or refuses it.
    fn begin(self: &Arc<Self>, connection: Connection) -> Result<(), TransportError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = connection.try_clone()?;
        let full = {
            let mut open = self.open.lock();
            let full = open.len() >= MAX_CONNECTIONS;
            if !full {
                open.insert(id, handle);
            }
            full
        };
        if full {
            return refuse(&connection);
        }
        let sessions = Arc::clone(self);
        let spawned = thread::Builder::new().name(format!("control-{id}")).spawn(move || {
            if let Err(e) = session::run(&sessions, id, &connection) {
                debug!(id, "control connection ended: {e}");
            }
            sessions.end(id);
        });
        spawned.map(drop).map_err(|source| {
            self.end(id);
            TransportError::Io { operation: "start a thread for a connection", source }
        })
    }
}

fn refuse(connection: &Connection) -> Result<(), TransportError> {
    connection.set_timeouts(None, Some(Duration::from_millis(100)))?;
    let message = format!("there are {MAX_CONNECTIONS} connections already; close one");
    connection.send(&Reply::Error { message }, &[])
}

/// The running control server.
pub struct Server {
    /// Dropped to stop the accepting thread.
    running: PipeWriter,
    acceptor: JoinHandle<()>,
    sessions: Box<dyn Open + Send>,
    tending: Tending,
}

/// Connections, whatever doors they talk about.
trait Open {
    fn count(&self) -> usize;
    fn close(&self);
}

impl<D: Doors> Open for Arc<Sessions<D>> {
    fn count(&self) -> usize {
        self.open.lock().len()
    }

    fn close(&self) {
        for connection in self.open.lock().values() {
            // It ends by itself otherwise, with the process at the latest.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Server {
    /// Serves `listener`, and looks after the engine's uplink, until [`Self::stop`].
    pub fn start<D: Doors>(listener: Listener, engine: Arc<Engine<D>>) -> io::Result<Self> {
        let tending = Tending::start(Arc::clone(&engine))?;
        let sessions = Arc::new(Sessions {
            engine,
            open: Mutex::default(),
            controller: Mutex::default(),
            next: AtomicU64::new(1),
        });
        let (stop, running) = io::pipe()?;
        let accepting = Arc::clone(&sessions);
        let acceptor = thread::Builder::new().name("control".into()).spawn(move || {
            loop {
                let begun = match listener.accept(stop.as_fd()) {
                    Ok(None) => return,
                    Ok(Some(connection)) => accepting.begin(connection),
                    Err(e) => Err(e),
                };
                if let Err(e) = begun {
                    warn!("control socket: {e}");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        })?;
        Ok(Self { running, acceptor, sessions: Box::new(sessions), tending })
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.sessions.count()
    }

    /// Closes the socket and all connections. The state in force stays.
    pub fn stop(self) {
        drop(self.tending);
        drop(self.running);
        if self.acceptor.join().is_err() {
            warn!("the control server's thread had panicked");
        }
        let begun = Instant::now();
        while self.sessions.count() > 0 && begun.elapsed() < STOP_PATIENCE {
            self.sessions.close();
            thread::sleep(Duration::from_millis(2));
        }
    }
}
