//! Leases in memory, with a clock of their own, that can fail.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sarcenet_server::lease::{Lease, LeaseRequest, Renewal};
use sarcenet_server::leases::{LeaseStore, pool};

#[derive(Default)]
struct Inside {
    now: Duration,
    broken: bool,
    leases: Vec<(Lease, Duration)>,
}

/// The store; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Inside>>);

impl Memory {
    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.0.lock().now += time;
    }

    /// Makes everything fail from now on, or work again.
    pub(crate) fn fail(&self, broken: bool) {
        self.0.lock().broken = broken;
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inside) -> T) -> Result<T, String> {
        let mut inside = self.0.lock();
        if inside.broken { Err(r#"no "database""#.to_owned()) } else { Ok(work(&mut inside)) }
    }
}

impl LeaseStore for Memory {
    type Error = String;

    async fn lease_of(&self, underlay: Ipv4Addr) -> Result<Option<Lease>, String> {
        self.with(|inside| {
            let mut leases = inside.leases.iter().map(|(lease, _)| lease);
            leases.find(|lease| lease.underlay == underlay).cloned()
        })
    }

    async fn acquire_lease(&self, request: &LeaseRequest) -> Result<Option<Lease>, String> {
        let LeaseRequest { underlay, single, expiry, pools } = request.clone();
        self.with(|inside| {
            let now = inside.now;
            let known = inside.leases.iter().find(|(lease, _)| lease.underlay == underlay);
            if let Some((lease, _)) = known {
                return Some(lease.clone());
            }
            let taken: Vec<_> = inside.leases.iter().map(|(lease, _)| lease.subnet).collect();
            let subnet = pools.pick(single, taken).or_else(|| {
                let over = inside.leases.iter().position(|(lease, renewed)| {
                    *renewed + expiry <= now && pools.number(single, lease.subnet).is_some()
                })?;
                Some(inside.leases.remove(over).0.subnet)
            })?;
            let lease = Lease { underlay, subnet, mac: pool::hardware_address(subnet) };
            inside.leases.push((lease.clone(), now));
            Some(lease)
        })
    }

    async fn renew_lease(&self, lease: &Lease) -> Result<Renewal, String> {
        self.with(|inside| {
            let now = inside.now;
            for (known, renewed) in &mut inside.leases {
                if known.underlay == lease.underlay {
                    if known != lease {
                        return Renewal::Mismatch;
                    }
                    *renewed = now;
                    return Renewal::Renewed;
                }
                if known.subnet == lease.subnet || known.mac == lease.mac {
                    return Renewal::Conflict;
                }
            }
            inside.leases.push((lease.clone(), now));
            Renewal::Created
        })
    }

    async fn release_lease(&self, underlay: Ipv4Addr) -> Result<(), String> {
        self.with(|inside| inside.leases.retain(|(lease, _)| lease.underlay != underlay))
    }

    async fn leases(&self, expiry: Duration) -> Result<Vec<Lease>, String> {
        self.with(|inside| {
            let live = inside.leases.iter().filter(|(_, renewed)| *renewed + expiry > inside.now);
            live.map(|(lease, _)| lease.clone()).collect()
        })
    }
}
