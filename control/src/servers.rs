//! The servers of a deployment in one process: policy server and subnet controller, over one
//! database.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use sarcenet_server::access::{Authority, TokensFile, TokensFileError, Uaa};
use sarcenet_server::cloud_controller::{CloudController, SecurityGroupSource};
use sarcenet_server::database::{Database, DatabaseError};
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{ServerFiles, ServerTls, TlsError};
use sarcenet_server::http::{Limits, Serve, ServeError, Server, Stop, Stopper, status, stop};
use sarcenet_server::leases::{self, LeaseMetrics};
use sarcenet_server::outbound::OutboundError;
use sarcenet_server::policies::{
    Cleaner, Internal, InternalSettings, external_router, internal_router,
};
use sarcenet_server::syncer::Syncer;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{
    AuthSpec, CloudControllerSpec, ControlSpec, PolicyServerSpec, SubnetControllerSpec,
};

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
    database: sarcenet_server::database::DatabaseSettings,
    database_directory: Option<PathBuf>,
    status: SocketAddr,
    policy_server: Option<PolicyServer>,
    subnet_controller: Option<(SubnetControllerSpec, ServerTls)>,
}

struct PolicyServer {
    spec: PolicyServerSpec,
    external_tls: Option<ServerTls>,
    internal_tls: ServerTls,
    authority: Arc<Authority>,
    platform: Option<Platform>,
}

struct Platform {
    cloud_controller: Arc<CloudController>,
    cleanup_interval: Duration,
    sync: Option<(SecurityGroupSource, Duration)>,
}

impl Prepared {
    /// Reads the files that `spec` names.
    pub fn new(spec: ControlSpec) -> Result<Self, ServersError> {
        let ControlSpec { database, database_directory, tls, status, .. } = spec;
        let load = |tls: &ServerFiles| ServerTls::load(tls.clone());
        let subnet_controller = match spec.subnet_controller {
            Some(spec) => Some((spec, load(&tls)?)),
            None => None,
        };
        let policy_server = match spec.policy_server {
            Some(spec) => Some(PolicyServer::new(spec, &tls)?),
            None => None,
        };
        Ok(Self { database, database_directory, status, policy_server, subnet_controller })
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
        let mut servers = Servers {
            database: database.clone(),
            metrics: metrics.clone(),
            stopper,
            stop,
            listeners: Vec::new(),
            beside: JoinSet::new(),
        };
        if let Some(policy_server) = self.policy_server {
            servers.policy_server(policy_server).await?;
        }
        if let Some((spec, tls)) = self.subnet_controller {
            servers.subnet_controller(&spec, tls).await?;
        }
        let check = move || {
            let database = database.clone();
            async move { database.check().await }
        };
        servers.listen("status", self.status, None, status::routes(check, metrics)).await?;
        Ok(servers)
    }
}

impl PolicyServer {
    fn new(spec: PolicyServerSpec, tls: &ServerFiles) -> Result<Self, ServersError> {
        let external_tls = if spec.external_settings.tls {
            // Users show tokens, not certificates.
            Some(ServerTls::load(ServerFiles { client_ca: None, ..tls.clone() })?)
        } else {
            None
        };
        let internal_tls = ServerTls::load(tls.clone())?;
        let (authority, platform) = match &spec.auth {
            AuthSpec::TokensFile(path) => (Authority::TokensFile(TokensFile::open(path)?), None),
            AuthSpec::Uaa(spec) => {
                let uaa = Arc::new(Uaa::new(&spec.uaa)?);
                let platform = match &spec.cloud_controller {
                    Some(spec) => Some(Platform::new(spec, &uaa)?),
                    None => None,
                };
                (Authority::Uaa(uaa), platform)
            }
        };
        Ok(Self { spec, external_tls, internal_tls, authority: Arc::new(authority), platform })
    }
}

impl Platform {
    fn new(spec: &CloudControllerSpec, uaa: &Arc<Uaa>) -> Result<Self, OutboundError> {
        let CloudControllerSpec { settings, cleanup_interval, sync } = spec;
        let cloud_controller = Arc::new(CloudController::new(settings, Arc::clone(uaa))?);
        let sync = match sync {
            Some(sync) => {
                Some((SecurityGroupSource::new(&sync.url, &sync.outbound)?, sync.interval))
            }
            None => None,
        };
        Ok(Self { cloud_controller, cleanup_interval: *cleanup_interval, sync })
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
}

impl Servers {
    async fn policy_server(&mut self, server: PolicyServer) -> Result<(), ServersError> {
        let PolicyServer { spec, external_tls, internal_tls, authority, platform } = server;
        let settings = InternalSettings::default();
        let internal = Internal::new(&settings, &self.database, self.stop.clone());
        let router = internal_router(&internal);
        self.listen("internal", spec.internal, Some(internal_tls), router).await?;

        let cloud_controller = platform.as_ref().map(|it| Arc::clone(&it.cloud_controller));
        let settings = &spec.external_settings;
        let router = external_router(settings, &self.database, authority, cloud_controller);
        self.listen("external", spec.external, external_tls, router).await?;

        let Some(Platform { cloud_controller, cleanup_interval, sync }) = platform else {
            return Ok(());
        };
        let cleaner = Cleaner::new(self.database.clone(), Some(Arc::clone(&cloud_controller)));
        self.beside.spawn(async move { cleaner.run(cleanup_interval).await });
        if let Some((source, interval)) = sync {
            let mut syncer = Syncer::new(self.database.clone(), cloud_controller, source);
            self.beside.spawn(async move { syncer.run(interval).await });
        }
        Ok(())
    }

    async fn subnet_controller(
        &mut self,
        spec: &SubnetControllerSpec,
        tls: ServerTls,
    ) -> Result<(), ServersError> {
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

    /// Where the server of this name listens: `external`, `internal`, `leases` or `status`.
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
        loop {
            match self.beside.join_next().await {
                Some(Err(error)) => return ServersError::Ended(error),
                Some(Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Answers the requests that are there, listens no more, and closes the database.
    pub async fn stop(mut self) {
        self.stopper.stop();
        self.beside.shutdown().await;
        for (_, server) in self.listeners {
            server.finished().await;
        }
        if timeout(CLOSING, self.database.close()).await.is_err() {
            warn!("the database is still at work; its operations are cut off");
        }
    }
}
