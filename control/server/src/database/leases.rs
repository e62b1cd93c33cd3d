//! Leases of overlay subnets (contract sections 4.2 to 4.6).

use std::net::Ipv4Addr;
use std::time::Duration;

use sqlx::Row;
use sqlx::any::AnyRow;

use super::Database;
use super::error::{DatabaseError, Fault};
use super::rows::narrow;
use super::session::{Access, Session, random, statement, work};
use crate::lease::{Lease, LeaseRequest, Renewal};
use crate::leases::pool::hardware_address;

/// How many leases there are (contract section 4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseCounts {
    /// All that are stored, over or not.
    pub total: u64,
    /// Those of them that were not renewed for a while.
    pub stale: u64,
}

impl Database {
    /// The lease of a cell, over or not.
    pub async fn lease_of(&self, underlay: Ipv4Addr) -> Result<Option<Lease>, DatabaseError> {
        self.run("lease of a cell", Access::Read, move |session| {
            work(async move { find(session, underlay).await })
        })
        .await
    }

    /// The lease that a cell has or gets (contract section 4.3); `None` when there is none left.
    pub async fn acquire_lease(
        &self,
        request: &LeaseRequest,
    ) -> Result<Option<Lease>, DatabaseError> {
        self.run("acquire lease", Access::Leases, move |session| {
            work(async move {
                if let Some(lease) = find(session, request.underlay).await? {
                    if request.pools.contains(lease.subnet) {
                        return Ok(Some(lease));
                    }
                    delete(session, request.underlay).await?;
                }
                choose(session, request).await
            })
        })
        .await
    }

    /// Renews a lease, also one that is not known: that is how a database that was lost gets its
    /// leases back (contract section 4.4).
    pub async fn renew_lease(&self, lease: &Lease) -> Result<Renewal, DatabaseError> {
        self.run("renew lease", Access::Leases, move |session| {
            work(async move {
                match find(session, lease.underlay).await? {
                    Some(known) if known != *lease => Ok(Renewal::Mismatch),
                    Some(_) => {
                        const RENEW: &str = "UPDATE leases SET renewed_at = $1 WHERE underlay = $2";
                        let renew = statement(RENEW).bind(session.now().await?);
                        session.execute(renew.bind(lease.underlay.to_string())).await?;
                        Ok(Renewal::Renewed)
                    }
                    None if insert(session, lease).await? => Ok(Renewal::Created),
                    None => Ok(Renewal::Conflict),
                }
            })
        })
        .await
    }

    /// Gives a cell's lease back, if it has one.
    pub async fn release_lease(&self, underlay: Ipv4Addr) -> Result<(), DatabaseError> {
        self.run("release lease", Access::Leases, move |session| {
            work(async move { delete(session, underlay).await })
        })
        .await
    }

    /// The leases that were renewed less than `expiry` ago, in the order of their cells' names.
    pub async fn leases(&self, expiry: Duration) -> Result<Vec<Lease>, DatabaseError> {
        self.run("leases", Access::Read, move |session| {
            work(async move {
                const LEASES: &str = "SELECT underlay, subnet, mac FROM leases \
                WHERE renewed_at > $1 ORDER BY underlay";
                let ended = session.now().await?.saturating_sub(nanoseconds(expiry));
                session.rows(statement(LEASES).bind(ended)).await?.iter().map(lease).collect()
            })
        })
        .await
    }

    /// How many leases there are; stale are those that were not renewed for `stale_after`.
    pub async fn lease_counts(&self, stale_after: Duration) -> Result<LeaseCounts, DatabaseError> {
        self.run("lease counts", Access::Read, move |session| {
            work(async move {
                const COUNT: &str = "SELECT COUNT(*), COUNT(CASE WHEN renewed_at <= $1 THEN 1 END) \
                FROM leases";
                let stale = session.now().await?.saturating_sub(nanoseconds(stale_after));
                let row = session.row(statement(COUNT).bind(stale)).await?;
                Ok(LeaseCounts { total: narrow(&row, 0)?, stale: narrow(&row, 1)? })
            })
        })
        .await
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Finds a cell a subnet: a random free one, else that of the lease that has been over longest.
/// There are no collisions, for writers are in a queue; but the MAC of a free subnet may be in
/// use by a lease that was presented, so that a few are tried (contract section 4.3).
async fn choose(session: &mut Session<'_>, request: &LeaseRequest) -> Result<Option<Lease>, Fault> {
    const LEASES: &str = "SELECT underlay, subnet, mac, renewed_at FROM leases \
        ORDER BY renewed_at, underlay";
    let LeaseRequest { single, pools, .. } = *request;
    let ended = session.now().await?.saturating_sub(nanoseconds(request.expiry));
    let mut known = Vec::new();
    for row in session.rows(statement(LEASES)).await? {
        known.push((lease(&row)?, row.try_get::<i64, _>(3)? <= ended));
    }
    let mut taken: Vec<_> = known.iter().map(|(lease, _)| lease.subnet).collect();
    for _ in 0..10 {
        let Some(subnet) = pools.pick(single, taken.iter().copied(), random()) else { break };
        let lease = Lease { underlay: request.underlay, subnet, mac: hardware_address(subnet) };
        if insert(session, &lease).await? {
            return Ok(Some(lease));
        }
        taken.push(subnet);
    }
    for (over, _) in known.iter().filter(|(_, is_over)| *is_over) {
        if pools.number(single, over.subnet).is_none() {
            continue;
        }
        delete(session, over.underlay).await?;
        let mac = hardware_address(over.subnet);
        let lease = Lease { underlay: request.underlay, subnet: over.subnet, mac };
        if insert(session, &lease).await? {
            return Ok(Some(lease));
        }
    }
    Ok(None)
}

async fn find(session: &mut Session<'_>, underlay: Ipv4Addr) -> Result<Option<Lease>, Fault> {
    const FIND: &str = "SELECT underlay, subnet, mac FROM leases WHERE underlay = $1";
    let rows = session.rows(statement(FIND).bind(underlay.to_string())).await?;
    rows.first().map(lease).transpose()
}

/// Stores a lease renewed now; `false` if another cell has its subnet or its MAC.
async fn insert(session: &mut Session<'_>, lease: &Lease) -> Result<bool, Fault> {
    const INSERT: &str = "INSERT INTO leases (underlay, subnet, mac, renewed_at) \
        VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    let insert = statement(INSERT)
        .bind(lease.underlay.to_string())
        .bind(lease.subnet.to_string())
        .bind(lease.mac.map(|byte| format!("{byte:02x}")).join(":"))
        .bind(session.now().await?);
    Ok(session.execute(insert).await? > 0)
}

async fn delete(session: &mut Session<'_>, underlay: Ipv4Addr) -> Result<(), Fault> {
    const DELETE: &str = "DELETE FROM leases WHERE underlay = $1";
    session.execute(statement(DELETE).bind(underlay.to_string())).await?;
    Ok(())
}

/// Reads the cell's address, the subnet and the MAC.
fn lease(row: &AnyRow) -> Result<Lease, Fault> {
    fn parsed<T: std::str::FromStr>(row: &AnyRow, column: usize) -> Result<T, Fault> {
        let text: &str = row.try_get(column)?;
        text.parse().map_err(|_| Fault::Stored(format!("a lease has {text:?} where none can")))
    }
    let text: &str = row.try_get(2)?;
    let mut mac = [0; 6];
    let mut parts = text.split(':').map(|part| u8::from_str_radix(part, 16));
    for byte in &mut mac {
        *byte = parts
            .next()
            .and_then(Result::ok)
            .ok_or_else(|| Fault::Stored(format!("a lease has {text:?} where a MAC should be")))?;
    }
    Ok(Lease { underlay: parsed(row, 0)?, subnet: parsed(row, 1)?, mac })
}
