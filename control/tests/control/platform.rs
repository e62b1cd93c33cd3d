//! UAA and Cloud Controller, as far as a start and a request need them.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;

const TOKEN: &str = r#"{"scope":["network.admin"],"sub":"ada-guid","user_name":"ada"}"#;
const OWN: &str = r#"{"access_token":"own","expires_in":600}"#;
const LATEST: &str = r#"{"last_update":"2024-05-01T10:00:00Z"}"#;
const GROUPS: &str = r#"{"pagination":{"next":null},"resources":[{"guid":"G1","name":"public",
    "globally_enabled":{"running":true,"staging":false},
    "rules":[{"protocol":"tcp","destination":"8.8.8.8","ports":"53"}],
    "relationships":{"running_spaces":{"data":[]},"staging_spaces":{"data":[]}}}]}"#;

/// Both at one address, for as long as the test's runtime lives.
pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/check_token", post(|| async { TOKEN }))
        .route("/oauth/token", post(|| async { OWN }))
        .route("/internal/v4/asg_latest_update", get(|| async { LATEST }))
        .route("/v3/security_groups", get(|| async { GROUPS }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
