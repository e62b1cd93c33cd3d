//! Signals, for programs that wait for other things too.

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc;

/// Signals as they come.
pub(crate) struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    /// Blocks the signals, which is to be done before any thread starts, so that all of them leave
    /// the signals to the one that waits; and waits for them.
    pub(crate) fn take(wanted: &[Signal]) -> std::io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in wanted {
            set.add(*signal);
        }
        set.thread_block()?;
        let (sender, receiver) = mpsc::channel(8);
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(signal) = set.wait() {
                if sender.blocking_send(signal).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(receiver))
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        // The thread that sends them lives as long as the receiver does.
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The next one that says to end.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if signal != Signal::SIGHUP {
                return signal;
            }
        }
    }
}
