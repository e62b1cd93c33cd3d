//! The routes of contract section 4.1. Whoever has a certificate of the CA may call them.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, put};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::body::LeaseBody;
use crate::database::{Database, DatabaseError};
use crate::http::reply::{self, ApiError};
use crate::http::{body, json};
use crate::lease::{Lease, LeaseRequest, Pools, Renewal};

/// What a controller leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The subnets.
    pub pools: Pools,
    /// How long after its last renewal a lease is over.
    pub expiry: Duration,
}

struct Controller {
    database: Database,
    settings: Settings,
}

type Shared = State<Arc<Controller>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct AcquireBody {
    underlay_ip: String,
    single_overlay_ip: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReleaseBody {
    underlay_ip: String,
}

#[derive(Serialize)]
struct LeasesBody {
    leases: Vec<LeaseBody>,
}

/// The controller's routes.
pub fn routes(database: Database, settings: Settings) -> Router {
    let router = Router::new()
        .route("/leases", get(index))
        .route("/leases/acquire", put(acquire))
        .route("/leases/renew", put(renew))
        .route("/leases/release", put(release))
        .with_state(Arc::new(Controller { database, settings }));
    reply::with_fallbacks(router)
}

async fn index(State(controller): Shared) -> Result<Response, ApiError> {
    let leases = controller.database.leases(controller.settings.expiry).await;
    let leases = leases.map_err(|e| failed(format!("all-routable-leases: {e}")))?;
    reply::json(&LeasesBody { leases: leases.iter().map(LeaseBody::from).collect() })
}

async fn acquire(State(controller): Shared, request: Request) -> Result<Response, ApiError> {
    let AcquireBody { underlay_ip, single_overlay_ip: single } = read(request).await?;
    let Ok(underlay) = underlay_ip.parse() else {
        return Err(ApiError::internal(format!("invalid ipv4 address: {underlay_ip}")));
    };
    let Settings { pools, expiry } = controller.settings;
    let request = LeaseRequest { underlay, single, expiry, pools };
    let lease = controller.database.acquire_lease(&request).await.map_err(failed)?;
    let Some(lease) = lease else {
        warn!(%underlay, single, "no lease available: {} can have one", pools.size(single));
        return Err(ApiError::conflict("no lease available"));
    };
    info!(%underlay, subnet = %lease.subnet, "lease acquired");
    reply::json(&LeaseBody::from(&lease))
}

async fn renew(State(controller): Shared, request: Request) -> Result<Response, ApiError> {
    let body: LeaseBody = read(request).await?;
    let refused = |reason: &dyn Display| {
        debug!("lease not renewed: {reason}");
        ApiError::conflict(format!("renew-subnet-lease: {reason}"))
    };
    let lease = Lease::try_from(body).map_err(|e| refused(&e))?;
    let unanswered = |e: DatabaseError| failed(format!("renew-subnet-lease: {e}"));

    // A lease that is not known is taken over as the cell has it, so that a lost database fills up
    // again. Also one from elsewhere: after a change of the network cells keep what they have.
    match controller.database.renew_lease(&lease).await.map_err(unanswered)? {
        Renewal::Renewed => {}
        Renewal::Created => {
            let in_pool = controller.settings.pools.contains(lease.subnet);
            info!(underlay = %lease.underlay, subnet = %lease.subnet, in_pool, "lease taken over");
        }
        Renewal::Mismatch => return Err(refused(&"lease mismatch")),
        Renewal::Conflict => {
            return Err(refused(&"another cell has the overlay subnet or the hardware address"));
        }
    }
    Ok(reply::text("{}"))
}

async fn release(State(controller): Shared, request: Request) -> Result<Response, ApiError> {
    let ReleaseBody { underlay_ip } = read(request).await?;
    // What is not an address has no lease.
    if let Ok(underlay) = underlay_ip.parse::<Ipv4Addr>() {
        let released = controller.database.release_lease(underlay).await;
        released.map_err(|e| failed(format!("release lease: {e}")))?;
        info!(%underlay, "lease released");
    }
    Ok(reply::text("{}"))
}

/// The body of a request as a `T`.
async fn read<T: for<'a> Deserialize<'a>>(request: Request) -> Result<T, ApiError> {
    let body = body::read(request).await;
    let body = body.map_err(|e| ApiError::bad_request(format!("read-body: {e}")))?;
    json::from_slice(&body).map_err(|e| ApiError::bad_request(format!("unmarshal-request: {e}")))
}

fn failed(error: impl Display) -> ApiError {
    warn!("the database failed: {error}");
    ApiError::internal(error.to_string())
}
