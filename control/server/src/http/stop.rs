//! Telling servers, and requests that take long, that it is time to end.

use std::time::Duration;

use tokio::sync::watch;

/// Ends all that have its [`Stop`], when told to or dropped.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Says when to end. A request that waits for something should end with it too.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Both ends.
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Ends them.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Waits until it is time to end.
    pub async fn stopped(&self) {
        // An error is a dropped sender.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }

    /// Waits this long, or shorter when it is time to end: then true.
    pub async fn within(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopped()).await.is_ok()
    }
}
