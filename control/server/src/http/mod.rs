//! HTTP as the servers speak it: listeners with and without TLS, what answers look like, how
//! requests are read, and what is counted.
//!
//! What a client can use up is bounded: the number of connections, the time of a handshake, of a
//! request's head, of its body and of reading the answer, and the length of head and body.

pub mod body;
mod connection;
pub mod headers;
pub mod json;
pub mod metrics;
pub mod reply;
pub mod status;
mod stop;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{error, warn};

pub use stop::{Stop, Stopper, stop};

use self::connection::Common;
use self::metrics::Metrics;
use self::tls::ServerTls;

/// What clients may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time. Others wait until one ends.
    pub connections: usize,
    /// Longest time of a TLS handshake.
    pub handshake: Duration,
    /// How long a connection may lie idle, the head of a request may take to come, and an answer may
    /// lie unread.
    pub silence: Duration,
    /// How long requests may take that are there when the server stops.
    pub grace: Duration,
    /// How often the TLS files are looked at.
    pub reload: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            silence: Duration::from_secs(75),
            grace: Duration::from_secs(10),
            reload: Duration::from_secs(10),
        }
    }
}

/// Why a server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its address cannot be had.
    #[error("cannot listen on {address} for {server}: {source}")]
    Listen {
        /// The server.
        server: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What to serve, and where.
pub struct Serve {
    /// Its name in metrics and errors: `leases`, `policies_external`.
    pub name: &'static str,
    /// Where to listen; with port 0 the system picks one.
    pub address: SocketAddr,
    /// TLS, if it is to be spoken.
    pub tls: Option<ServerTls>,
    /// What to answer, [fallbacks](reply::with_fallbacks) included.
    pub router: Router,
    /// What clients may use up.
    pub limits: Limits,
}

/// A server that listens.
pub struct Server {
    address: SocketAddr,
    tls: Option<Arc<ServerTls>>,
    /// None when its end has been seen.
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and serves until it is time to `stop`.
    pub async fn start(serve: Serve, metrics: &Metrics, stop: Stop) -> Result<Self, ServeError> {
        let Serve { name, address, tls, router, limits } = serve;
        let failed = |source| ServeError::Listen { server: name, address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tls = tls.map(Arc::new);
        let metrics = metrics.server(name);
        if let Some(tls) = &tls {
            metrics.certificate(tls.expiry());
        }
        let common = Common {
            router: metrics.observe(router),
            limits,
            stop: stop.clone(),
            tls: tls.as_ref().map(|tls| tls.watch()),
            metrics: metrics.clone(),
        };
        let followed = tls.clone();
        let task = tokio::spawn(async move {
            let follow = followed.map(|tls| tokio::spawn(tls.follow(limits.reload, stop, metrics)));
            accept(listener, common).await;
            if let Some(follow) = follow {
                follow.abort();
            }
        });
        Ok(Self { address, tls, task: Some(task) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks at the TLS files now, instead of when it is time. What becomes of it is logged and
    /// counted.
    pub fn look_at_tls(&self) {
        if let Some(tls) = &self.tls {
            tls.look();
        }
    }

    /// Waits until it ends in a panic, which is a mistake of ours: nobody listens any more.
    pub async fn failed(&mut self) -> JoinError {
        if let Some(task) = &mut self.task {
            let ended = task.await;
            self.task = None;
            if let Err(error) = ended {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Waits until it has stopped: it listens no more, and all requests are answered or their time
    /// is over.
    pub async fn finished(self) {
        if let Some(task) = self.task
            && let Err(e) = task.await
        {
            warn!("a server ended badly: {e}");
        }
    }
}

async fn accept(listener: TcpListener, common: Common) {
    let seats = Arc::new(Semaphore::new(common.limits.connections));
    let mut connections = JoinSet::new();
    let stop = common.stop.clone();
    let mut stopped = std::pin::pin!(stop.stopped());
    loop {
        let next = async {
            let seat = Arc::clone(&seats).acquire_owned().await;
            (seat, listener.accept().await)
        };
        tokio::select! {
            () = &mut stopped => break,
            Some(ended) = connections.join_next() => if let Err(e) = ended {
                // Its client has no answer; the others do not notice.
                error!("a connection ended in a mistake of the server: {e}");
            },
            (seat, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let common = common.clone();
                    connections.spawn(async move {
                        let _seat = seat;
                        common.serve(stream).await;
                    });
                }
                Err(e) => {
                    // Out of descriptors, most likely: others will be closed.
                    warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(common.limits.grace, all).await.is_err() {
        warn!("{} connections are cut off: their requests took too long", connections.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(task: JoinHandle<()>) -> Server {
        Server { address: ([127, 0, 0, 1], 1).into(), tls: None, task: Some(task) }
    }

    #[tokio::test]
    async fn a_listener_that_panics_has_failed_and_one_that_stops_has_not() {
        let mut broken = server(tokio::spawn(async { panic!("as a test") }));
        assert!(broken.failed().await.is_panic());
        broken.finished().await;
        let mut stopped = server(tokio::spawn(async {}));
        let never = timeout(Duration::from_millis(1), stopped.failed()).await;
        assert!(never.is_err());
        stopped.finished().await;
    }
}
