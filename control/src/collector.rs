//! Looking again and again which containers have ended.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::agent::Agent;

/// How often: it costs two system calls for each container.
const INTERVAL: Duration = Duration::from_secs(1);

/// A running collector; ends when dropped.
#[derive(Debug)]
pub struct Collector {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Calls [`Agent::collect`] every second, on a thread of its own.
    pub fn start(agent: Arc<Agent>) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let run = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                agent.collect(Instant::now());
            }
        };
        let thread = std::thread::Builder::new().name("collector".into()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
