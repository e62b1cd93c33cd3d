//! Keeping the lease: at the start, and then again and again.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sarcenet_server::http::Stop;
use sarcenet_server::lease::Lease;
use tracing::{error, info, warn};

use super::client::{LeaseClient, LeaseError};
use super::decide::{Fatal, First, Renewal, Rules, Second, Watchdog};
use super::store::{LeaseStore, LeaseStoreError, Saved};
use crate::agent::Agent;
use crate::follow::metrics::LeaseMetrics;
use crate::follow::pause::{BackOff, around};
use crate::followed::Followed;
use crate::host;
use crate::netlink::{Netlink, NetlinkError};

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// It must not.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// What was left of the lease cannot be looked at.
    #[error(transparent)]
    Store(#[from] LeaseStoreError),
    /// The cell's own device cannot be looked at.
    #[error("cannot look for the lease of {device}: {source}", device = host::DEVICE)]
    Device {
        /// Why not.
        source: NetlinkError,
    },
}

/// Keeps a cell's lease.
#[derive(Debug)]
pub struct Keeper {
    client: LeaseClient,
    store: LeaseStore,
    rules: Rules,
    interval: Duration,
    metrics: LeaseMetrics,
    /// What is on the disk.
    saved: Option<Saved>,
    /// The lease from before.
    known: Option<Lease>,
    /// The last failure that was told.
    told: Told,
}

/// Tells of failures when they begin, when they change and when they end, not each time.
#[derive(Debug, Default)]
struct Told {
    renewal: Option<String>,
    converge: Option<String>,
    save: Option<String>,
}

/// Remembers `now` and says whether it is news.
fn news(before: &mut Option<String>, now: Option<String>) -> bool {
    let news = *before != now;
    *before = now;
    news
}

impl Keeper {
    /// Looks for a lease from before, on the disk, in the cell's own device, and in the address of
    /// a container; and asks nobody. Blocks.
    pub fn new(
        client: LeaseClient,
        store: LeaseStore,
        rules: Rules,
        interval: Duration,
        metrics: LeaseMetrics,
        container: Option<Ipv4Addr>,
    ) -> Result<Self, StartFailure> {
        let (saved, problem) = store.load()?;
        if let Some(problem) = problem {
            warn!("{problem}");
        }
        let known = match &saved {
            Some(saved) => Some(saved.lease.clone()),
            None => of_device(&rules)?.or_else(|| of_container(&rules, container)),
        };
        let told = Told::default();
        Ok(Self { client, store, rules, interval, metrics, saved, known, told })
    }

    /// The lease with which the agent starts, and the other cells as far as they are known. Waits
    /// for the subnet controller when there is nothing to start with. `containers` is the number of
    /// those that the cell has (contract section 5.2).
    pub async fn begin(&mut self, containers: usize) -> Result<Followed, StartFailure> {
        let saved = self.saved.as_ref();
        let age = saved.and_then(|saved| saved.age(SystemTime::now()));
        let cells = saved.map(|saved| saved.cells.clone()).unwrap_or_default();
        let first = self.rules.first(self.known.take(), containers)?;
        let lease = match first {
            First::Renew(lease) => self.resume(lease, containers, age).await?,
            First::Acquire => None,
        };
        let lease = match lease {
            Some(lease) => lease,
            None => self.acquire().await,
        };
        Ok(Followed { lease: Some(lease), cells, ..Followed::default() })
    }

    /// Goes on with the lease from before; none when it is lost.
    async fn resume(
        &mut self,
        lease: Lease,
        containers: usize,
        age: Option<Duration>,
    ) -> Result<Option<Lease>, StartFailure> {
        let subnet = lease.subnet;
        let mut back_off = BackOff::default();
        loop {
            let renewal = self.renew(&lease).await;
            match self.rules.second(renewal, containers, age)? {
                Second::Start => {
                    info!(%subnet, "lease renewed");
                    return Ok(Some(lease));
                }
                Second::StartUnconfirmed(reason) => {
                    warn!(%subnet, "starting with the lease from before, unrenewed: {reason}");
                    return Ok(Some(lease));
                }
                Second::Acquire(reason) => {
                    warn!(%subnet, "the lease from before is lost: {reason}");
                    return Ok(None);
                }
                Second::Again(reason) => {
                    warn!(
                        %subnet,
                        "waiting for the subnet controller, as the lease from before may be another \
                         cell's by now: {reason}"
                    );
                    tokio::time::sleep(back_off.pause()).await;
                }
            }
        }
    }

    async fn acquire(&mut self) -> Lease {
        let Rules { underlay, single, .. } = self.rules;
        let mut back_off = BackOff::default();
        loop {
            let answer = self.client.acquire(underlay, single).await;
            let reason = match answer.map(|lease| self.rules.accept(lease)) {
                Ok(Ok(lease)) => {
                    info!(subnet = %lease.subnet, "lease acquired");
                    self.save(&lease, Vec::new(), true).await;
                    return lease;
                }
                Ok(Err(reason)) => reason,
                Err(e) => e.to_string(),
            };
            warn!("waiting for a lease: acquire subnet lease: {reason}");
            tokio::time::sleep(back_off.pause()).await;
        }
    }

    async fn renew(&mut self, lease: &Lease) -> Renewal {
        let answer = self.client.renew(lease).await;
        self.metrics.renewal(answer.is_ok());
        let renewal = match answer {
            Ok(()) => Renewal::Renewed,
            Err(e @ LeaseError::Refused { .. }) => Renewal::Refused(e.to_string()),
            Err(e) => Renewal::Failed(e.to_string()),
        };
        match &renewal {
            Renewal::Renewed => {
                if news(&mut self.told.renewal, None) {
                    info!(subnet = %lease.subnet, "the lease is renewed again");
                }
            }
            Renewal::Refused(reason) => error!("{reason}"),
            Renewal::Failed(reason) => {
                if news(&mut self.told.renewal, Some(reason.clone())) {
                    warn!("{reason}");
                }
            }
        }
        renewal
    }

    /// Renews the lease and follows those of the others until told to stop; an error is the end of
    /// the agent (contract section 5.4).
    pub async fn keep(mut self, agent: Arc<Agent>, stop: Stop) -> Result<(), Fatal> {
        let Some(lease) = agent.followed().lease else { return Ok(()) };
        let mut watchdog = Watchdog::new(self.rules.tolerance, Instant::now());
        loop {
            let renewal = self.renew(&lease).await;
            let problem = match &renewal {
                Renewal::Renewed => None,
                Renewal::Refused(reason) | Renewal::Failed(reason) => {
                    Some(format!("the cell's lease is not renewed: {reason}"))
                }
            };
            agent.note("lease", problem);
            watchdog.renewal(&renewal, Instant::now())?;
            if renewal == Renewal::Renewed {
                let converged = self.converge(&agent, &lease).await;
                let problem = converged.as_ref().err();
                agent.note("cells", problem.map(|e| format!("other cells are not followed: {e}")));
                self.converged(converged);
            }
            let cells = agent.followed().cells;
            self.save(&lease, cells, renewal == Renewal::Renewed).await;
            if stop.within(around(self.interval)).await {
                return Ok(());
            }
        }
    }

    fn converged(&mut self, result: Result<(), String>) {
        self.metrics.converge(result.is_ok());
        match result {
            Ok(()) => {
                if news(&mut self.told.converge, None) {
                    info!("the other cells' leases are in force again");
                }
            }
            Err(reason) => {
                if news(&mut self.told.converge, Some(reason.clone())) {
                    warn!("the other cells stay as they are: {reason}");
                }
            }
        }
    }

    /// Puts all cells in force that the subnet controller knows, which has just renewed the cell's
    /// own lease.
    async fn converge(&self, agent: &Arc<Agent>, own: &Lease) -> Result<(), String> {
        let listed = self.client.list().await.map_err(|e| e.to_string())?;
        // A list without it is not of this subnet controller; an empty one would cut the cell off
        // from all others.
        if !listed.leases.contains(own) {
            return Err("the list of leases lacks the one that was renewed just now".into());
        }
        let agent = Arc::clone(agent);
        let leases = listed.leases;
        let put = move || {
            agent.follow(|followed| followed.cells = leases).map_err(|e| e.to_string())?;
            Ok::<_, String>(agent.reachable())
        };
        let done = tokio::task::spawn_blocking(put).await;
        let (cells, unroutable) = done.map_err(|e| e.to_string())??;
        self.metrics.cells(cells, unroutable + listed.unreadable);
        Ok(())
    }

    /// Writes to the disk what is new, and now and then that the lease is renewed.
    async fn save(&mut self, lease: &Lease, cells: Vec<Lease>, confirmed: bool) {
        let old = self.saved.as_ref();
        let renewed = match old {
            Some(old) if !confirmed => old.renewed,
            // Nobody knows: as old as can be.
            None if !confirmed => SystemTime::UNIX_EPOCH,
            _ => SystemTime::now(),
        };
        let same = old.is_some_and(|old| {
            let since = renewed.duration_since(old.renewed).unwrap_or(Duration::MAX);
            old.lease == *lease && old.cells == cells && since < self.rules.tolerance / 100
        });
        if same {
            return;
        }
        let (store, saved) = (self.store.clone(), Saved { lease: lease.clone(), renewed, cells });
        // A disk may take its time.
        let written = tokio::task::spawn_blocking(move || store.save(&saved).map(|()| saved));
        let problem = match written.await {
            Ok(Ok(saved)) => {
                self.saved = Some(saved);
                if news(&mut self.told.save, None) {
                    info!("leases can be written again");
                }
                return;
            }
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        self.metrics.not_saved();
        if news(&mut self.told.save, Some(problem.clone())) {
            warn!("{problem}");
        }
    }
}

/// The lease that an agent before left in the cell's own device.
fn of_device(rules: &Rules) -> Result<Option<Lease>, StartFailure> {
    let look = || -> Result<_, NetlinkError> {
        let netlink = Netlink::open()?;
        let Some(link) = netlink.link(host::DEVICE)? else { return Ok(None) };
        Ok(netlink.addresses(&link)?.first().map(|(address, _)| *address))
    };
    let address = look().map_err(|source| StartFailure::Device { source })?;
    let lease = address.and_then(|address| rules.of_address(address));
    if let Some(lease) = &lease {
        info!(subnet = %lease.subnet, "{} shows the lease from before", host::DEVICE);
    }
    Ok(lease)
}

/// The lease that a container's address shows.
fn of_container(rules: &Rules, address: Option<Ipv4Addr>) -> Option<Lease> {
    let lease = rules.of_address(address?)?;
    info!(subnet = %lease.subnet, "containers show the lease from before");
    Some(lease)
}
