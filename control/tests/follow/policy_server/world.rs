//! Policy servers, ours and others, and those who follow them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use parking_lot::Mutex;
use sarcenet_control::agent::Tenants;
use sarcenet_control::follow::asker::Asker;
use sarcenet_control::follow::force::Force;
use sarcenet_control::follow::groups::{GroupFollower, GroupSettings, GroupState};
use sarcenet_control::follow::policies::{PolicyFollower, PolicySettings, PolicyState};
use sarcenet_control::follow::policy_metrics::PolicyMetrics;
use sarcenet_server::client::ClientFiles;
use sarcenet_server::database::{Database, DatabaseSettings};
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{IdentityFiles, ServerFiles, ServerTls};
use sarcenet_server::http::{Limits, Serve, Server, Stop, Stopper, stop};
use sarcenet_server::policies::{Internal, InternalSettings, internal_router};
use sarcenet_server::policy::{Policy, Protocol};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::servers::CERTS;

fn identity(name: &str) -> IdentityFiles {
    let file = |kind: &str| CERTS.path().join(format!("{name}.{kind}"));
    IdentityFiles { certificate: file("crt"), key: file("key") }
}

fn ca() -> PathBuf {
    identity("ca").certificate
}

fn asker() -> Asker {
    let files = ClientFiles { server_ca: ca(), identity: identity("client") };
    Asker::new(files, Duration::from_mins(1))
}

/// Serves `router` over mTLS.
async fn serve(router: Router, address: SocketAddr, stop: Stop) -> Server {
    let files = ServerFiles { identity: identity("server"), client_ca: Some(ca()) };
    let tls = Some(ServerTls::load(files).unwrap());
    // Who is told to stop in a test ends at once.
    let limits = Limits { grace: Duration::ZERO, ..Limits::default() };
    let serve = Serve { name: "test", address, tls, router, limits };
    Server::start(serve, &Metrics::default(), stop).await.unwrap()
}

fn policy(&(from, to, port): &(&str, &str, u32)) -> Policy {
    Policy {
        source: from.into(),
        destination: to.into(),
        protocol: Protocol::Tcp,
        first_port: port,
        last_port: port,
    }
}

/// How long anything may take that must come about: it only ends a test that has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// A policy server of ours.
pub(crate) struct Ours {
    pub(crate) database: Database,
    pub(crate) address: SocketAddr,
    running: Option<(Server, Stopper)>,
    _directory: TempDir,
}

impl Ours {
    pub(crate) async fn start() -> Self {
        Self::start_at(0).await
    }

    /// On this port.
    pub(crate) async fn start_at(port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("control.db");
        let settings = DatabaseSettings::new(format!("sqlite:{}", file.display()));
        let database = Database::open(&settings).await.unwrap();
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut ours = Self { database, address, running: None, _directory: directory };
        ours.come().await;
        ours
    }

    /// Serves, where it did before.
    pub(crate) async fn come(&mut self) {
        let (stopper, stop) = stop();
        let internal = Internal::new(&InternalSettings::default(), &self.database, stop.clone());
        let server = serve(internal_router(&internal), self.address, stop).await;
        self.address = server.address();
        self.running = Some((server, stopper));
    }

    /// Goes, with all connections.
    pub(crate) async fn go(&mut self) {
        if let Some((server, stopper)) = self.running.take() {
            stopper.stop();
            server.finished().await;
        }
    }

    pub(crate) async fn allow(&self, policies: &[(&str, &str, u32)]) {
        let policies: Vec<_> = policies.iter().map(policy).collect();
        self.database.create_policies(&policies).await.unwrap();
    }

    pub(crate) async fn revoke(&self, policies: &[(&str, &str, u32)]) {
        let policies: Vec<_> = policies.iter().map(policy).collect();
        self.database.delete_policies(&policies).await.unwrap();
    }
}

/// What a server of another kind says.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    /// An answer.
    Text(u16, String),
    /// It has too much to do, for so many seconds.
    Busy(u64),
    /// Nothing, and keeps the connection.
    Nothing,
    /// Half of an answer, and ends the connection.
    Half(&'static str),
    /// An answer without end.
    Endless,
}

impl Say {
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self::Text(200, text.into())
    }

    async fn response(self) -> Response {
        match self {
            Self::Text(status, text) => {
                (StatusCode::from_u16(status).unwrap(), text).into_response()
            }
            Self::Busy(seconds) => {
                (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", seconds.to_string())])
                    .into_response()
            }
            Self::Nothing => std::future::pending().await,
            Self::Half(text) => {
                let broken = std::io::Error::other("broken off");
                Body::from_stream(stream::iter([
                    Ok(Bytes::from_static(text.as_bytes())),
                    Err(broken),
                ]))
                .into_response()
            }
            Self::Endless => {
                let part = Bytes::from(vec![b' '; 1 << 20]);
                let parts = stream::repeat_with(move || Ok::<_, std::io::Error>(part.clone()));
                Body::from_stream(parts).into_response()
            }
        }
    }
}

/// A server that says what it is told to say.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    says: Arc<Mutex<Script>>,
    _running: (Server, Stopper),
}

type Script = Box<dyn FnMut(&str) -> Say + Send>;

impl Scripted {
    /// `says` is given the path and the query of each question, behind `/networking/v1/internal/`.
    pub(crate) async fn start(says: impl FnMut(&str) -> Say + Send + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let says: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(says)));
        let (heard, script) = (Arc::clone(&asked), Arc::clone(&says));
        let router = Router::new().fallback(move |request: Request| {
            let question = request.uri().path_and_query().unwrap().as_str();
            let question = question.strip_prefix("/networking/v1/internal/").unwrap().to_owned();
            let say = (script.lock())(&question);
            heard.lock().push(question);
            say.response()
        });
        let (stopper, stop) = stop();
        let server = serve(router, (Ipv4Addr::LOCALHOST, 0).into(), stop).await;
        Self { address: server.address(), asked, says, _running: (server, stopper) }
    }

    /// Says something else from now on.
    pub(crate) fn says(&self, says: impl FnMut(&str) -> Say + Send + 'static) {
        *self.says.lock() = Box::new(says);
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

/// Somebody who follows a server, with nobody behind.
pub(crate) struct Following<S> {
    pub(crate) state: watch::Receiver<S>,
    pub(crate) tenants: watch::Sender<Arc<Tenants>>,
    pub(crate) metrics: Metrics,
    force: mpsc::Sender<Force>,
    task: JoinHandle<()>,
}

impl<S> Drop for Following<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows policies, having `state` at first. It would be asked every hour.
pub(crate) fn policies(server: SocketAddr, state: PolicyState) -> Following<PolicyState> {
    policies_every(Duration::from_hours(1), server, state)
}

/// The same with another interval.
pub(crate) fn policies_every(
    interval: Duration,
    server: SocketAddr,
    state: PolicyState,
) -> Following<PolicyState> {
    let url = format!("https://{server}").parse().unwrap();
    let settings = PolicySettings { url, interval, timeout: Duration::from_secs(2), watch: true };
    policies_with(settings, state)
}

pub(crate) fn policies_with(
    settings: PolicySettings,
    state: PolicyState,
) -> Following<PolicyState> {
    let (tenants, whose) = watch::channel(Arc::default());
    let (sender, state) = watch::channel(state);
    let (force, forced) = mpsc::channel(8);
    let metrics = Metrics::default();
    let counters = PolicyMetrics::new(&metrics);
    let follower = PolicyFollower::new(settings, asker(), whose, sender, forced, counters);
    let task = tokio::spawn(follower.run());
    Following { state, tenants, metrics, force, task }
}

/// Follows security groups. The server would be asked every hour.
pub(crate) fn groups(server: SocketAddr) -> Following<GroupState> {
    groups_every(Duration::from_hours(1), server)
}

/// The same with another interval.
pub(crate) fn groups_every(interval: Duration, server: SocketAddr) -> Following<GroupState> {
    let settings = GroupSettings {
        url: format!("https://{server}").parse().unwrap(),
        interval,
        timeout: Duration::from_secs(2),
        watch: true,
    };
    let (tenants, whose) = watch::channel(Arc::default());
    let (sender, state) = watch::channel(GroupState::default());
    let (force, forced) = mpsc::channel(8);
    let metrics = Metrics::default();
    let counters = PolicyMetrics::new(&metrics);
    let follower = GroupFollower::new(settings, asker(), whose, sender, forced, counters);
    let task = tokio::spawn(follower.run());
    Following { state, tenants, metrics, force, task }
}

impl<S> Following<S> {
    /// Has the server asked now; the outcome.
    pub(crate) async fn force(&self) -> Result<u64, String> {
        let (force, told) = oneshot::channel();
        self.force.send(force).await.unwrap();
        told.await.unwrap()
    }

    /// Waits until what is known is so.
    pub(crate) async fn until(&mut self, so: impl FnMut(&S) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.state.wait_for(so)).await;
        assert!(waited.is_ok_and(|known| known.is_ok()), "waited in vain");
    }

    /// Containers of these apps and spaces are here from now on.
    pub(crate) fn here(&self, apps: &[&str], spaces: &[&str]) {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        self.tenants.send_replace(Arc::new(Tenants { apps: set(apps), spaces: set(spaces) }));
    }

    /// The value of a metric, 0 if there is none.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

/// Policies in few words.
pub(crate) fn words(state: &PolicyState) -> Vec<String> {
    let policies = state.policies.as_ref();
    policies.map_or_else(Vec::new, |policies| {
        policies.rules().iter().map(ToString::to_string).collect()
    })
}
