//! Opens the uplink, and the way to the outside, again after its interface was gone, or has got
//! other queues.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{debug, warn};

use super::{doors::Doors, engine::Engine};

/// How often the uplink is looked at, and the first pause after an attempt to open it that failed.
const PERIOD: Duration = Duration::from_secs(1);

/// Longest pause between attempts.
const LONGEST: Duration = Duration::from_secs(16);

/// Looks after the uplink until it is dropped.
pub(super) struct Tending {
    /// Dropped to stop the thread.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tending {
    /// Begins, in the network namespace of the calling thread.
    pub(super) fn start<D: Doors>(engine: Arc<Engine<D>>) -> io::Result<Self> {
        let (running, stopped) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("uplink".into()).spawn(move || {
            let mut pause = PERIOD;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if let Err(e) = engine.doors().tend_outside() {
                    debug!("traffic of the outside cannot be taken from the kernel yet: {e}");
                }
                pause = match engine.tend_uplink() {
                    Ok(_) => PERIOD,
                    Err(e) => {
                        debug!("the uplink cannot be opened again yet: {e}");
                        (pause * 2).min(LONGEST)
                    }
                };
            }
        })?;
        Ok(Self { running: Some(running), thread: Some(thread) })
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that looks after the uplink had panicked");
        }
    }
}
