//! What to do about the cell's lease. Nothing here asks or waits; the time comes from outside.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use sarcenet_server::lease::Lease;
use sarcenet_server::leases::pool::hardware_address;

use crate::config::LeasesSpec;

/// Prefix lengths of blocks that the dataplane can use: its ports are 16 host bits, and there must be
/// room for a container.
const BLOCKS: std::ops::RangeInclusive<u8> = 16..=30;

/// Why the agent cannot go on. Containers and the dataplane stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The overlay was changed under running containers.
    #[error(
        "discovered lease is not in overlay network and has containers: {containers} (lease \
         {subnet}, overlay {overlay}); restore the overlay in the network file, or remove the \
         containers first"
    )]
    Mismatch {
        /// How many containers.
        containers: usize,
        /// What was leased.
        subnet: Ipv4Net,
        /// The overlay.
        overlay: Ipv4Net,
    },
    /// The subnet belongs to another cell by now.
    #[error("renew subnet lease with containers: {containers}: {reason}")]
    Lost {
        /// How many containers.
        containers: usize,
        /// What the subnet controller said.
        reason: String,
    },
    /// It cannot be renewed any more.
    #[error(
        "This cell must be restarted (run \"bosh restart <job>\"): fatal: renew lease: {reason}"
    )]
    Renew {
        /// Why.
        reason: String,
    },
}

/// What a lease of this cell must be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The cell's address on the underlay.
    pub underlay: Ipv4Addr,
    /// The whole overlay.
    pub overlay: Ipv4Net,
    /// Prefix length of a block.
    pub block_prefix: u8,
    /// Whether it is to be a single address.
    pub single: bool,
    /// How long the agent goes on when the lease cannot be renewed.
    pub tolerance: Duration,
}

/// What to do first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum First {
    /// Ask for a lease.
    Acquire,
    /// Renew this one.
    Renew(Lease),
}

/// How a renewal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The lease goes on.
    Renewed,
    /// The subnet controller refuses it for good (409).
    Refused(String),
    /// Anything else: no answer, or none that can be understood.
    Failed(String),
}

/// What to do after the first renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Second {
    /// Start with the lease.
    Start,
    /// Start with the lease as it was left, though nobody has confirmed it.
    StartUnconfirmed(String),
    /// Give it up and ask for a new one.
    Acquire(String),
    /// Renew it again later: it may belong to another cell by now.
    Again(String),
}

impl Rules {
    /// The rules of a network file that follows servers.
    pub fn new(overlay: Ipv4Net, underlay: Ipv4Addr, spec: &LeasesSpec) -> Self {
        Self {
            underlay,
            overlay,
            block_prefix: spec.block_prefix,
            single: spec.single_ip,
            tolerance: spec.partition_tolerance,
        }
    }

    /// The lease to which an address of the cell in the overlay belongs.
    pub(super) fn of_address(&self, address: Ipv4Addr) -> Option<Lease> {
        let prefix = if self.single { 32 } else { self.block_prefix };
        let subnet = Ipv4Net::new(address, prefix).ok()?.trunc();
        Some(Lease { underlay: self.underlay, subnet, mac: hardware_address(subnet) })
    }

    /// Whether a subnet is a part of the overlay, of the kind that is wanted.
    pub(super) fn fits(&self, subnet: Ipv4Net) -> bool {
        let prefix = subnet.prefix_len();
        let kind = if self.single { prefix == 32 } else { BLOCKS.contains(&prefix) };
        kind && subnet.trunc() == subnet
            && self.overlay.contains(&subnet)
            && self.overlay.prefix_len() < prefix
            && subnet.network() != self.overlay.network()
    }

    /// Whether what the subnet controller has given is of any use.
    pub(super) fn accept(&self, lease: Lease) -> Result<Lease, String> {
        if lease.underlay != self.underlay {
            return Err(format!(
                "the subnet controller leased to {} what {} asked for",
                lease.underlay, self.underlay
            ));
        }
        if !self.fits(lease.subnet) {
            let kind = if self.single { "an address" } else { "a block" };
            // A subnet controller gives a cell what it has, of whichever kind (contract section 4.3).
            let other = Self { single: !self.single, ..*self };
            let hint = if other.fits(lease.subnet) {
                "give that back with `sarcenet agent --teardown`"
            } else {
                "have both the same overlay?"
            };
            return Err(format!(
                "the subnet controller leased {}, which is not {kind} of the overlay {}; {hint}",
                lease.subnet, self.overlay
            ));
        }
        Ok(lease)
    }

    /// What to do with what is known of a lease from before.
    pub(super) fn first(&self, known: Option<Lease>, containers: usize) -> Result<First, Fatal> {
        let Some(lease) = known else { return Ok(First::Acquire) };
        if self.fits(lease.subnet) {
            return Ok(First::Renew(Lease { underlay: self.underlay, ..lease }));
        }
        if containers > 0 {
            let (subnet, overlay) = (lease.subnet, self.overlay);
            return Err(Fatal::Mismatch { containers, subnet, overlay });
        }
        Ok(First::Acquire)
    }

    /// What to do when the lease from before was to be renewed. `age` is the time since it was
    /// renewed last, if that is known.
    ///
    /// A lease that nobody confirms is used for as long as the subnet controller keeps it for the
    /// cell. Beyond that it may be another cell's, and no container is to be started in it; those
    /// that are there go on.
    pub(super) fn second(
        &self,
        renewal: Renewal,
        containers: usize,
        age: Option<Duration>,
    ) -> Result<Second, Fatal> {
        match renewal {
            Renewal::Renewed => Ok(Second::Start),
            Renewal::Refused(reason) if containers > 0 => Err(Fatal::Lost { containers, reason }),
            Renewal::Refused(reason) => Ok(Second::Acquire(reason)),
            Renewal::Failed(reason)
                if containers > 0 || age.is_some_and(|age| age < self.tolerance) =>
            {
                Ok(Second::StartUnconfirmed(reason))
            }
            Renewal::Failed(reason) => Ok(Second::Again(reason)),
        }
    }
}

/// Watches over the renewals of an agent that runs.
#[derive(Debug, Clone)]
pub(super) struct Watchdog {
    tolerance: Duration,
    /// The last renewal, or the agent's start.
    success: Instant,
}

impl Watchdog {
    pub(super) fn new(tolerance: Duration, now: Instant) -> Self {
        Self { tolerance, success: now }
    }

    /// Whether the agent can go on.
    pub(super) fn renewal(&mut self, renewal: &Renewal, now: Instant) -> Result<(), Fatal> {
        match renewal {
            Renewal::Renewed => {
                self.success = now;
                Ok(())
            }
            Renewal::Refused(reason) => Err(Fatal::Renew { reason: reason.clone() }),
            Renewal::Failed(reason) => {
                let silence = now.saturating_duration_since(self.success);
                if silence < self.tolerance {
                    return Ok(());
                }
                let reason = format!("{reason} (for {} seconds)", silence.as_secs());
                Err(Fatal::Renew { reason })
            }
        }
    }
}

#[cfg(test)]
mod tests;
