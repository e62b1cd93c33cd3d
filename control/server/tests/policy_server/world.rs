//! A policy server with its database and platform, and a client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use sarcenet_server::access::{Authority, Uaa, UaaSettings};
use sarcenet_server::cloud_controller::{CloudController, CloudControllerSettings};
use sarcenet_server::database::{Database, DatabaseSettings};
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{ServerFiles, ServerTls};
use sarcenet_server::http::{Limits, Serve, Server, Stop, Stopper, stop};
use sarcenet_server::outbound::OutboundSettings;
use sarcenet_server::policies::{
    ExternalSettings, Internal, InternalSettings, external_router, internal_router,
};
use sarcenet_test_postgres::SHARED;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection};
use tempfile::TempDir;

use crate::platform::Platform;

/// How a world is made.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) external: ExternalSettings,
    pub(crate) internal: InternalSettings,
    /// How long answers of UAA and Cloud Controller are remembered.
    pub(crate) remember: Duration,
    /// How long they are waited for.
    pub(crate) patience: Duration,
    /// How UAA is reached, if not without TLS.
    pub(crate) uaa: Option<OverTls>,
    /// How Cloud Controller is.
    pub(crate) cloud_controller: Option<OverTls>,
}

/// A server of the platform with a certificate, and how it is asked.
#[derive(Debug, Clone)]
pub(crate) struct OverTls {
    pub(crate) server: ServerFiles,
    pub(crate) outbound: OutboundSettings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            external: ExternalSettings::default(),
            internal: InternalSettings::default(),
            remember: Duration::ZERO,
            patience: Duration::from_mins(1),
            uaa: None,
            cloud_controller: None,
        }
    }
}

/// Everything that a test needs. There are two apps of space `S1`, `a` and `b`, one of space `S2`,
/// `x`, and `dev` is a developer of `S1`. Tokens are named by what they are for.
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) database: Database,
    pub(crate) cloud_controller: Arc<CloudController>,
    pub(crate) cloud_controller_url: String,
    pub(crate) external: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) stopper: Stopper,
    pub(crate) servers: Vec<Server>,
    client: Client,
    pub(crate) metrics: Metrics,
    url: String,
    /// Where the file of SQLite is.
    _directory: Option<TempDir>,
}

/// Where policies are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// Makes of each function two tests: with SQLite and with PostgreSQL.
macro_rules! with_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::world::Backend::Sqlite).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::world::Backend::Postgres).await;
            })+
        }
    };
}
pub(crate) use with_both;

/// What a server said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{}: {e}", self.body))
    }
}

pub(crate) fn seconds_from_now(seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    now.saturating_add_signed(seconds)
}

pub(crate) async fn serve(router: Router, stop: Stop) -> Server {
    serve_with(None, router, stop).await
}

async fn serve_with(tls: Option<ServerFiles>, router: Router, stop: Stop) -> Server {
    let serve = Serve {
        name: "test",
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        tls: tls.map(|files| ServerTls::load(files).unwrap()),
        router,
        limits: Limits::default(),
    };
    Server::start(serve, &Metrics::default(), stop).await.unwrap()
}

impl World {
    pub(crate) async fn new(on: Backend) -> Self {
        Self::with(on, Options::default()).await
    }

    pub(crate) async fn with(on: Backend, options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match on {
            Backend::Sqlite => format!("sqlite:{}", directory.path().join("policies.db").display()),
            Backend::Postgres => SHARED.database(),
        };
        Self { _directory: Some(directory), ..Self::over(url, options).await }
    }

    /// Over a database of the test's own.
    pub(crate) async fn over(url: String, options: Options) -> Self {
        let platform = Platform::start().await;
        fill(&platform);
        let (stopper, stop) = stop();
        let mut servers = Vec::new();
        let mut reached = Vec::new();
        for over in [&options.uaa, &options.cloud_controller] {
            let Some(OverTls { server, outbound }) = over else {
                let timeout = options.patience;
                let outbound = OutboundSettings { timeout, ..OutboundSettings::default() };
                reached.push((format!("http://{}", platform.address), outbound));
                continue;
            };
            let server = serve_with(Some(server.clone()), platform.router(), stop.clone()).await;
            reached.push((format!("https://{}", server.address()), outbound.clone()));
            servers.push(server);
        }
        let [(uaa_url, uaa_outbound), (cloud_controller_url, outbound)] =
            reached.try_into().unwrap();
        let uaa = UaaSettings {
            url: uaa_url,
            client: "network-policy".into(),
            secret: "secret".into(),
            remember: options.remember,
            outbound: uaa_outbound,
        };
        let uaa = Arc::new(Uaa::new(&uaa).unwrap());
        let settings = CloudControllerSettings {
            url: cloud_controller_url.clone(),
            remember: options.remember,
            outbound,
        };
        let cloud_controller = Arc::new(CloudController::new(&settings, Arc::clone(&uaa)).unwrap());
        let database = Database::open(&DatabaseSettings::new(&url)).await.unwrap();
        let metrics = Metrics::default();
        let external = external_router(
            &options.external,
            &database,
            Arc::new(Authority::Uaa(uaa)),
            Some(Arc::clone(&cloud_controller)),
            &metrics,
        );
        let internal = Internal::new(&options.internal, &database, stop.clone());
        internal.show_in(&metrics);
        let external = serve(external, stop.clone()).await;
        let internal = serve(internal_router(&internal), stop).await;
        let addresses = (external.address(), internal.address());
        servers.extend([external, internal]);
        Self {
            platform,
            database,
            cloud_controller,
            cloud_controller_url,
            external: addresses.0,
            internal: addresses.1,
            stopper,
            servers,
            client: Client::builder().no_proxy().build().unwrap(),
            metrics,
            url,
            _directory: None,
        }
    }

    /// The answer of the external API; `token` is the whole header.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let headers: Vec<_> = token.into_iter().map(|token| ("authorization", token)).collect();
        self.request(self.external, method, path, &headers, body).await
    }

    /// The answer of the internal API.
    pub(crate) async fn cell(&self, method: &str, path: &str, body: &str) -> Answer {
        self.request(self.internal, method, path, &[], body.to_owned()).await
    }

    pub(crate) async fn request(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("http://{to}{path}")).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    /// Creates policies as an admin: source, destination, first and last port.
    pub(crate) async fn create(&self, policies: &[(&str, &str, u32, u32)]) {
        self.change("/networking/v1/external/policies", policies).await;
    }

    /// Deletes policies as an admin.
    pub(crate) async fn delete(&self, policies: &[(&str, &str, u32, u32)]) {
        self.change("/networking/v1/external/policies/delete", policies).await;
    }

    async fn change(&self, path: &str, policies: &[(&str, &str, u32, u32)]) {
        let answer = self.ask("POST", path, Some("Bearer admin"), v1(policies)).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    }

    /// Policies as an admin sees them, `source destination first-last`.
    pub(crate) async fn listed(&self) -> Vec<String> {
        let path = "/networking/v1/external/policies";
        let answer = self.ask("GET", path, Some("Bearer admin"), "").await.json();
        let mut policies: Vec<String> =
            answer["policies"].as_array().unwrap().iter().map(short).collect();
        policies.sort();
        policies
    }

    /// Another replica's handle on the database.
    pub(crate) async fn replica(&self) -> Database {
        Database::open(&DatabaseSettings::new(&self.url)).await.unwrap()
    }

    /// Takes the tables away under the server.
    pub(crate) async fn break_database(&self) {
        let url = self.url.replace("sqlite:", "sqlite://");
        let mut connection = AnyConnection::connect(&url).await.unwrap();
        let drop = if url.starts_with("sqlite") {
            "PRAGMA foreign_keys = OFF; DROP TABLE policies; DROP TABLE policies_info; \
             DROP TABLE policy_changes; DROP TABLE security_groups; DROP TABLE security_groups_info; \
             DROP TABLE tags"
        } else {
            "DROP SCHEMA sarcenet CASCADE"
        };
        sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
    }
}

/// A policy in few words.
pub(crate) fn short(policy: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (source, destination) = (text(&policy["source"]["id"]), &policy["destination"]);
    let ports = &destination["ports"];
    format!("{source} {} {}-{}", text(&destination["id"]), ports["start"], ports["end"])
}

/// A body of version 1.
pub(crate) fn v1(policies: &[(&str, &str, u32, u32)]) -> String {
    let policy = |(source, destination, start, end): &(&str, &str, u32, u32)| {
        json!({
            "source": {"id": source},
            "destination":
                {"id": destination, "protocol": "tcp", "ports": {"start": start, "end": end}},
        })
    };
    json!({"policies": policies.iter().map(policy).collect::<Vec<_>>()}).to_string()
}

fn fill(platform: &Platform) {
    let mut known = platform.known.lock();
    for (name, scopes) in [
        ("admin", vec!["network.admin"]),
        ("dev", vec!["network.write"]),
        ("other", vec!["openid", "cloud_controller.read"]),
        ("none", vec![]),
    ] {
        let token = json!({
            "scope": scopes,
            "sub": name,
            "user_name": format!("{name}@example.org"),
            "client_id": "cf",
            "exp": seconds_from_now(3600),
        });
        known.tokens.insert(name.into(), token);
    }
    let client = json!({"scope": ["network.admin"], "sub": "robot", "client_id": "robot"});
    known.tokens.insert("client".into(), client);
    for (app, space) in [("a", "S1"), ("b", "S1"), ("x", "S2")] {
        known.apps.insert(app.into(), space.into());
    }
    for space in ["S1", "S2"] {
        known.spaces.insert(space.into(), ("same name & all".into(), format!("O-{space}")));
    }
    known.developers.insert(("dev".into(), "S1".into()));
}
