//! What the subnet controller asks of its database.

use std::fmt::Display;
use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lease::{Lease, LeaseRequest, Renewal};

/// Where leases are kept. All replicas of a controller share one; time is its own.
pub trait LeaseStore: Clone + Send + Sync + 'static {
    /// What can go wrong with it.
    type Error: Display + Send;

    /// The lease of a cell, over or not.
    fn lease_of(
        &self,
        underlay: Ipv4Addr,
    ) -> impl Future<Output = Result<Option<Lease>, Self::Error>> + Send;

    /// The lease that a cell has or gets (contract section 4.3); none when none is left.
    fn acquire_lease(
        &self,
        request: &LeaseRequest,
    ) -> impl Future<Output = Result<Option<Lease>, Self::Error>> + Send;

    /// Renews a lease, or takes it over from the cell (contract section 4.4).
    fn renew_lease(
        &self,
        lease: &Lease,
    ) -> impl Future<Output = Result<Renewal, Self::Error>> + Send;

    /// Gives back what a cell has, if it has something.
    fn release_lease(
        &self,
        underlay: Ipv4Addr,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// All that were renewed less than `expiry` ago.
    fn leases(
        &self,
        expiry: Duration,
    ) -> impl Future<Output = Result<Vec<Lease>, Self::Error>> + Send;
}
