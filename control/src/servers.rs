//! The servers of a deployment in one process, all or some of them: policy server and subnet
//! controller, over one database.

mod debug;
mod group_file;
pub mod process;

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sarcenet_server::access::{Authority, TokensFile, TokensFileError, Uaa};
use sarcenet_server::cloud_controller::{CloudController, SecurityGroupSource};
use sarcenet_server::database::{Database, DatabaseError, DatabaseSettings};
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{ServerTls, TlsError};
use sarcenet_server::http::{Limits, Serve, ServeError, Server, Stop, Stopper, status, stop};
use sarcenet_server::leases::{self, LeaseMetrics};
use sarcenet_server::outbound::OutboundError;
use sarcenet_server::policies::{
    Cleaner, ExternalSettings, Internal, PolicyMetrics, external_router, internal_router,
};
use sarcenet_server::syncer::{GivenSyncer, Leader, SyncMetrics, Syncer};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info, warn};

pub(crate) use debug::with_log_level;

use crate::config::{
    AuthSpec, CloudControllerSpec, ControlSpec, ExternalSpec, GroupsSpec, InternalSpec,
    SubnetControllerSpec, SyncSpec,
};
use crate::watch::Watch;

/// How long operations of the database may go on when all servers have stopped.
const CLOSING: Duration = Duration::from_secs(5);

/// Why there are no servers.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(TlsError),
    /// There are no certificates.
    #[error("{0}; `sarcenet certs init` makes certificates where there are none")]
    NoCerts(TlsError),
    /// The tokens file.
    #[error(transparent)]
    Tokens(#[from] TokensFileError),
    /// UAA or Cloud Controller cannot be asked with these settings.
    #[error(transparent)]
    Platform(#[from] OutboundError),
    /// The database's own directory.
    #[error("cannot make the directory {path} for the database: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The file of security groups.
    #[error("cannot watch the file of security groups {path}: {source}")]
    GroupFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An address to listen on.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// What goes on beside the listeners came to an end.
    #[error("a part of the servers ended by itself: {0}")]
    Ended(JoinError),
}

impl From<TlsError> for ServersError {
    fn from(error: TlsError) -> Self {
        match &error {
            TlsError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Self::NoCerts(error)
            }
            _ => Self::Tls(error),
        }
    }
}

/// Servers whose files have been read. Nothing listens yet, and nobody has been asked.
pub struct Prepared {
    database: DatabaseSettings,
    database_directory: Option<PathBuf>,
    external: Option<External>,
    internal: Option<(InternalSpec, ServerTls)>,
    subnet_controller: Option<(SubnetControllerSpec, ServerTls)>,
    groups: Option<Groups>,
    status: Option<SocketAddr>,
    debug: Option<SocketAddr>,
}

struct External {
    listen: SocketAddr,
    tls: Option<ServerTls>,
    settings: ExternalSettings,
    authority: Arc<Authority>,
    platform: Option<(Arc<CloudController>, Duration)>,
}

/// Where security groups come from.
enum Groups {
    Sync(Sync),
    File(PathBuf),
}

struct Sync {
    cloud_controller: Arc<CloudController>,
    source: SecurityGroupSource,
    interval: Duration,
}

impl Prepared {
    /// Reads the files that `spec` names.
    pub fn new(spec: ControlSpec) -> Result<Self, ServersError> {
        let ControlSpec { database, database_directory, status, debug, .. } = spec;
        let internal = match spec.internal {
            Some(spec) => {
                let tls = ServerTls::load(spec.tls.clone())?;
                Some((spec, tls))
            }
            None => None,
        };
        let subnet_controller = match spec.subnet_controller {
            Some(spec) => {
                let tls = ServerTls::load(spec.tls.clone())?;
                Some((spec, tls))
            }
            None => None,
        };
        let external = spec.external.map(External::new).transpose()?;
        let groups = spec.security_groups.map(Groups::new).transpose()?;
        Ok(Self {
            database,
            database_directory,
            external,
            internal,
            subnet_controller,
            groups,
            status,
            debug,
        })
    }

    /// Opens the database, for which it waits, and listens.
    pub async fn start(self) -> Result<Servers, ServersError> {
        if let Some(path) = self.database_directory {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| ServersError::Directory { path, source })?;
        }
        let database = Database::open(&self.database).await?;
        let metrics = Metrics::default();
        database.show_in(&metrics);
        let (stopper, stop) = stop();
        let has_policies = self.external.is_some() || self.internal.is_some();
        let mut servers = Servers {
            database: database.clone(),
            metrics: metrics.clone(),
            stopper,
            stop,
            listeners: Vec::new(),
            beside: JoinSet::new(),
            groups: None,
        };
        if let Some((spec, tls)) = self.internal {
            servers.internal(&spec, tls).await?;
        }
        if let Some(external) = self.external {
            servers.external(external).await?;
        }
        if let Some(groups) = self.groups {
            servers.security_groups(groups)?;
        }
        if let Some((spec, tls)) = self.subnet_controller {
            servers.subnet_controller(&spec, tls).await?;
        }
        if has_policies {
            let counted = PolicyMetrics::new(&servers.metrics);
            servers.beside.spawn(counted.follow(database.clone(), servers.stop.clone()));
        }
        let check = move || {
            let database = database.clone();
            async move { database.check().await }
        };
        let routes = status::routes(check, metrics);
        if let Some(address) = self.status {
            servers.listen("status", address, None, routes.clone()).await?;
        }
        if let Some(address) = self.debug {
            servers.listen("debug", address, None, debug::with_log_level(routes)).await?;
        }
        Ok(servers)
    }
}

impl External {
    fn new(spec: ExternalSpec) -> Result<Self, ServersError> {
        let ExternalSpec { listen, tls, settings, auth } = spec;
        let tls = tls.map(ServerTls::load).transpose()?;
        let (authority, platform) = match auth {
            AuthSpec::TokensFile(path) => (Authority::TokensFile(TokensFile::open(&path)?), None),
            AuthSpec::Uaa(spec) => {
                let uaa = Arc::new(Uaa::new(&spec.uaa)?);
                let platform = match spec.cloud_controller {
                    Some(CloudControllerSpec { settings, cleanup_interval }) => {
                        let asked = CloudController::new(&settings, Arc::clone(&uaa))?;
                        Some((Arc::new(asked), cleanup_interval))
                    }
                    None => None,
                };
                (Authority::Uaa(uaa), platform)
            }
        };
        Ok(Self { listen, tls, settings, authority: Arc::new(authority), platform })
    }
}

impl Groups {
    fn new(spec: GroupsSpec) -> Result<Self, OutboundError> {
        match spec {
            GroupsSpec::Sync(spec) => Sync::new(&spec).map(Self::Sync),
            GroupsSpec::File(path) => Ok(Self::File(path)),
        }
    }
}

impl Sync {
    fn new(spec: &SyncSpec) -> Result<Self, OutboundError> {
        let SyncSpec { uaa, cloud_controller, source } = spec;
        let uaa = Arc::new(Uaa::new(uaa)?);
        Ok(Self {
            cloud_controller: Arc::new(CloudController::new(cloud_controller, uaa)?),
            source: SecurityGroupSource::new(&source.url, &source.outbound)?,
            interval: source.interval,
        })
    }
}

/// Servers that listen.
pub struct Servers {
    database: Database,
    metrics: Metrics,
    stopper: Stopper,
    stop: Stop,
    listeners: Vec<(&'static str, Server)>,
    /// What goes on beside them, until the end.
    beside: JoinSet<()>,
    /// Who leads in bringing security groups, and the watch of a file that has them.
    groups: Option<(Leader, Option<Watch>)>,
}

impl Servers {
    async fn internal(&mut self, spec: &InternalSpec, tls: ServerTls) -> Result<(), ServeError> {
        let internal = Internal::new(&spec.settings, &self.database, self.stop.clone());
        internal.show_in(&self.metrics);
        self.listen("internal", spec.listen, Some(tls), internal_router(&internal)).await
    }

    async fn external(&mut self, server: External) -> Result<(), ServeError> {
        let External { listen, tls, settings, authority, platform } = server;
        let asked = platform.as_ref().map(|(asked, _)| Arc::clone(asked));
        let router = external_router(&settings, &self.database, authority, asked, &self.metrics);
        self.listen("external", listen, tls, router).await?;
        if let Some((cloud_controller, cleanup_interval)) = platform {
            let cleaner = Cleaner::new(self.database.clone(), Some(cloud_controller));
            self.beside.spawn(async move { cleaner.run(cleanup_interval).await });
        }
        Ok(())
    }

    /// Brings security groups to the database from now on.
    fn security_groups(&mut self, from: Groups) -> Result<(), ServersError> {
        let leader = Leader::new(self.database.clone());
        let counted = SyncMetrics::new(&self.metrics);
        let watch = match from {
            Groups::Sync(Sync { cloud_controller, source, interval }) => {
                let mut syncer = Syncer::new(leader.clone(), cloud_controller, source);
                self.beside.spawn(async move { syncer.run(interval, &counted).await });
                None
            }
            Groups::File(path) => {
                let followed = group_file::follow(path.clone(), &self.metrics);
                let (watch, given) =
                    followed.map_err(|source| ServersError::GroupFile { path, source })?;
                let mut syncer = GivenSyncer::new(leader.clone(), given);
                self.beside.spawn(async move { syncer.run(&counted).await });
                Some(watch)
            }
        };
        self.groups = Some((leader, watch));
        Ok(())
    }

    async fn subnet_controller(
        &mut self,
        spec: &SubnetControllerSpec,
        tls: ServerTls,
    ) -> Result<(), ServeError> {
        let pools = spec.settings.pools;
        let router = leases::routes(self.database.clone(), spec.settings);
        self.listen("leases", spec.listen, Some(tls), router).await?;
        let (blocks, singles) = (pools.size(false), pools.size(true));
        info!(overlay = %pools.overlay, block_prefix = pools.block_prefix, blocks, singles,
            expiry_seconds = spec.settings.expiry.as_secs(), "subnets for cells");
        let counted = LeaseMetrics::new(pools, &self.metrics);
        self.beside.spawn(counted.follow(self.database.clone(), self.stop.clone()));
        Ok(())
    }

    async fn listen(
        &mut self,
        name: &'static str,
        address: SocketAddr,
        tls: Option<ServerTls>,
        router: Router,
    ) -> Result<(), ServeError> {
        let serve = Serve { name, address, tls, router, limits: Limits::default() };
        let server = Server::start(serve, &self.metrics, self.stop.clone()).await?;
        self.listeners.push((name, server));
        Ok(())
    }

    /// Where the server of this name listens: `external`, `internal`, `leases`, `status` or `debug`.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let found = self.listeners.iter().find(|(known, _)| *known == name);
        found.map(|(_, server)| server.address())
    }

    /// Puts changed certificates in force now.
    pub fn look_at_tls(&self) {
        for (_, server) in &self.listeners {
            server.look_at_tls();
        }
    }

    /// Waits until something ends that should not.
    pub async fn failed(&mut self) -> ServersError {
        let Self { listeners, beside, .. } = self;
        let mut listening: FuturesUnordered<_> =
            listeners.iter_mut().map(|(_, server)| server.failed()).collect();
        loop {
            let ended = tokio::select! {
                Some(error) = listening.next() => Err(error),
                Some(ended) = beside.join_next() => ended,
                else => std::future::pending().await,
            };
            if let Err(error) = ended {
                return ServersError::Ended(error);
            }
        }
    }

    /// Answers the requests that are there, listens no more, and closes the database.
    pub async fn stop(mut self) {
        self.stopper.stop();
        self.beside.shutdown().await;
        if let Some((leader, _)) = self.groups
            && let Ok(Err(e)) = timeout(CLOSING, leader.resign()).await
        {
            debug!("the next one to bring security groups begins later: {e}");
        }
        for (_, server) in self.listeners {
            server.finished().await;
        }
        if timeout(CLOSING, self.database.close()).await.is_err() {
            warn!("the database is still at work; its operations are cut off");
        }
    }
}
