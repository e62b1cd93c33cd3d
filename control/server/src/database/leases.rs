//! Leases of overlay subnets (contract sections 4.2 to 4.6).

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Database;
use super::error::{DatabaseError, Fault};
use super::rows::narrow;
use super::session::{Access, Session, random, statement, work};
use crate::lease::{Lease, LeaseRequest, Pools, Renewal};

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
                let pools = [Pool::blocks(request.pools), Pool::singles(request.pools)];
                if let Some(lease) = find(session, request.underlay).await? {
                    if pools.iter().any(|pool| pool.index_of(lease.subnet).is_some()) {
                        return Ok(Some(lease));
                    }
                    delete(session, request.underlay).await?;
                }
                let pool = if request.single { pools[1] } else { pools[0] };
                choose(session, request, pool).await
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

/// Subnets of one size, one after the other.
#[derive(Debug, Clone, Copy)]
struct Pool {
    first: u32,
    count: u32,
    prefix: u8,
}

impl Pool {
    /// All blocks of the overlay but the first.
    fn blocks(pools: Pools) -> Self {
        let prefix = pools.block_prefix.min(32);
        let bits = prefix.saturating_sub(pools.overlay.prefix_len());
        let blocks = 1_u64 << bits.min(32);
        let first = u64::from(pools.overlay.network().to_bits()) + (1 << (32 - prefix));
        Self { first: first as u32, count: (blocks - 1) as u32, prefix }
    }

    /// The addresses of the first block but the first one.
    fn singles(pools: Pools) -> Self {
        let addresses = 1_u64 << (32 - pools.block_prefix.min(32));
        let first = pools.overlay.network().to_bits().wrapping_add(1);
        Self { first, count: (addresses - 1) as u32, prefix: 32 }
    }

    /// The subnet at `index`, which is below the count.
    fn subnet(self, index: u32) -> Ipv4Net {
        let offset = (u64::from(index) << (32 - self.prefix)) as u32;
        Ipv4Net::new_assert(Ipv4Addr::from_bits(self.first.wrapping_add(offset)), self.prefix)
    }

    /// Where `subnet` is in the pool, if it is one of its subnets.
    fn index_of(self, subnet: Ipv4Net) -> Option<u32> {
        let (from, _) = self.overlap(subnet)?;
        (self.subnet(from) == subnet).then_some(from)
    }

    /// The first and last index of the subnets that share addresses with `subnet`.
    fn overlap(self, subnet: Ipv4Net) -> Option<(u32, u32)> {
        let size = 1_u64 << (32 - self.prefix);
        let begin = u64::from(self.first);
        let end = begin + u64::from(self.count) * size;
        let from = u64::from(subnet.network().to_bits()).max(begin);
        let to = u64::from(subnet.broadcast().to_bits()).min(end.saturating_sub(1));
        (from <= to && from < end)
            .then(|| (((from - begin) / size) as u32, ((to - begin) / size) as u32))
    }

    /// One of the subnets that share nothing with `taken`, each as likely as another.
    fn random_free(self, taken: &[Ipv4Net], random: u64) -> Option<Ipv4Net> {
        let mut ranges: Vec<_> = taken.iter().filter_map(|&net| self.overlap(net)).collect();
        ranges.sort_unstable();
        // Gaps between what is taken: where each begins, and its length.
        let mut gaps = Vec::new();
        let mut next = 0;
        for (from, to) in ranges {
            if from > next {
                gaps.push((next, from - next));
            }
            next = next.max(to.saturating_add(1));
        }
        if next < self.count {
            gaps.push((next, self.count - next));
        }
        let free: u64 = gaps.iter().map(|&(_, length)| u64::from(length)).sum();
        let mut chosen = random.checked_rem(free)?;
        for (begin, length) in gaps {
            if chosen < u64::from(length) {
                return Some(self.subnet(begin + chosen as u32));
            }
            chosen -= u64::from(length);
        }
        None
    }
}

/// Finds a cell a subnet: a random free one, else that of the lease that has been over longest.
/// There are no collisions, for writers are in a queue; but the MAC of a free subnet may be in
/// use by a lease that was presented, so that a few are tried (contract section 4.3).
async fn choose(
    session: &mut Session<'_>,
    request: &LeaseRequest,
    pool: Pool,
) -> Result<Option<Lease>, Fault> {
    const LEASES: &str = "SELECT underlay, subnet, mac, renewed_at FROM leases \
        ORDER BY renewed_at, underlay";
    let ended = session.now().await?.saturating_sub(nanoseconds(request.expiry));
    let mut known = Vec::new();
    for row in session.rows(statement(LEASES)).await? {
        known.push((lease(&row)?, row.try_get::<i64, _>(3)? <= ended));
    }
    let mut taken: Vec<_> = known.iter().map(|(lease, _)| lease.subnet).collect();
    for _ in 0..10 {
        let Some(subnet) = pool.random_free(&taken, random()) else { break };
        let lease = Lease { underlay: request.underlay, subnet, mac: mac_of(subnet) };
        if insert(session, &lease).await? {
            return Ok(Some(lease));
        }
        taken.push(subnet);
    }
    for (over, _) in known.iter().filter(|(_, is_over)| *is_over) {
        if pool.index_of(over.subnet).is_none() {
            continue;
        }
        delete(session, over.underlay).await?;
        let mac = mac_of(over.subnet);
        let lease = Lease { underlay: request.underlay, subnet: over.subnet, mac };
        if insert(session, &lease).await? {
            return Ok(Some(lease));
        }
    }
    Ok(None)
}

/// The MAC of the VTEP of a subnet: `ee:ee` and its network address.
fn mac_of(subnet: Ipv4Net) -> [u8; 6] {
    let [a, b, c, d] = subnet.network().octets();
    [0xee, 0xee, a, b, c, d]
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pools(overlay: &str, block_prefix: u8) -> Pools {
        Pools { overlay: overlay.parse().unwrap(), block_prefix }
    }

    #[test]
    fn the_first_block_is_cut_into_single_addresses() {
        for (overlay, prefix, blocks, singles) in [
            ("10.255.0.0/16", 24, Some(("10.255.1.0/24", "10.255.255.0/24", 255)), 255),
            ("10.255.7.9/16", 24, Some(("10.255.1.0/24", "10.255.255.0/24", 255)), 255),
            ("10.0.0.0/24", 24, None, 255),
            ("10.0.0.0/31", 32, Some(("10.0.0.1/32", "10.0.0.1/32", 1)), 0),
            ("0.0.0.0/0", 8, Some(("1.0.0.0/8", "255.0.0.0/8", 255)), 0xff_ffff),
            ("255.255.255.255/32", 32, None, 0),
        ] {
            let given = pools(overlay, prefix);
            let pool = Pool::blocks(given);
            let expected = blocks.map(|(first, last, count)| (first.into(), last.into(), count));
            let is = (pool.count > 0).then(|| {
                let text = |index| pool.subnet(index).to_string();
                (text(0), text(pool.count - 1), pool.count)
            });
            assert_eq!(is, expected, "{overlay}");
            assert_eq!(Pool::singles(given).count, singles, "{overlay}");
        }
    }

    #[test]
    fn the_mac_is_made_of_the_network_address() {
        let subnet = "10.255.73.0/24".parse().unwrap();
        assert_eq!(mac_of(subnet), [0xee, 0xee, 0x0a, 0xff, 0x49, 0x00]);
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free_and_in_the_pool(
            address: u32, length in 8_u8..=30, more in 0_u8..=6, single: bool,
            taken in prop::collection::vec((0_u32..80, 20_u8..=32), 0..90), random: u64,
        ) {
            let overlay = Ipv4Net::new(Ipv4Addr::from_bits(address), length).unwrap().trunc();
            let given = Pools { overlay, block_prefix: (length + more).min(32) };
            let pool = if single { Pool::singles(given) } else { Pool::blocks(given) };
            let taken: Vec<_> = taken
                .into_iter()
                .filter(|_| pool.count > 0)
                .map(|(index, prefix)| {
                    let near = pool.subnet(index % pool.count);
                    Ipv4Net::new(near.network(), prefix).unwrap().trunc()
                })
                .collect();
            let is_free = |subnet: Ipv4Net| {
                !taken.iter().any(|net| net.contains(&subnet) || subnet.contains(net))
            };
            match pool.random_free(&taken, random) {
                Some(subnet) => {
                    prop_assert!(is_free(subnet), "{subnet}");
                    let index = pool.index_of(subnet);
                    prop_assert!(index.is_some_and(|index| index < pool.count), "{subnet}");
                }
                None => {
                    // All are looked at; a pool that is used up is a small one.
                    prop_assert!((0..pool.count).all(|index| !is_free(pool.subnet(index))));
                }
            }
        }

        #[test]
        fn a_subnet_of_the_pool_is_found_at_its_place(
            address: u32, length in 0_u8..=31, more in 0_u8..=8, index: u32, single: bool,
        ) {
            let overlay = Ipv4Net::new(Ipv4Addr::from_bits(address), length).unwrap().trunc();
            let given = Pools { overlay, block_prefix: (length + more).min(32) };
            let pool = if single { Pool::singles(given) } else { Pool::blocks(given) };
            prop_assume!(pool.count > 0);
            let index = index % pool.count;
            let subnet = pool.subnet(index);
            prop_assert!(overlay.contains(&subnet));
            prop_assert_eq!(pool.index_of(subnet), Some(index));
        }
    }
}
