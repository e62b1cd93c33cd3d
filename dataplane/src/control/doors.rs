//! The doors as the control side sees them.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
};

use sarcenet_dataplane_api::{LinkStatus, PortId, WorkerStatus};

use crate::pipeline::Totals;

/// What can be opened and closed. The workers are it in the running program.
pub trait Doors: Send + Sync + 'static {
    /// Opens the tunnel's socket in place of the one before, which stays when this fails. `mtu`
    /// is that of inner packets, in bytes. Returns the mode obtained.
    fn set_uplink(&self, underlay: Ipv4Addr, port: u16, mtu: u16) -> io::Result<String>;

    /// Takes the host TUN's queue and MTU in place of those before, or lets go of them.
    fn set_host(&self, host: Option<(OwnedFd, u16)>) -> io::Result<()>;

    /// Whether packets could be carried through this descriptor; changes nothing.
    fn check_queue(&self, queue: BorrowedFd<'_>) -> io::Result<()>;

    /// Carries packets of `port` through `queue`, in place of the one before. `mtu` in bytes.
    fn add_container(&self, port: PortId, name: &str, queue: OwnedFd, mtu: u16) -> io::Result<()>;

    /// Stops carrying packets of `port`.
    fn remove_container(&self, port: PortId);

    /// A duplicate of the queue of `port`.
    fn port_fd(&self, port: PortId) -> Option<OwnedFd>;

    /// A duplicate of the host TUN's queue.
    fn host_fd(&self) -> Option<OwnedFd>;

    /// All doors, with the mode they really got.
    fn links(&self) -> Vec<LinkStatus>;

    /// All workers.
    fn workers(&self) -> Vec<WorkerStatus>;

    /// The outcomes of all packets.
    fn totals(&self) -> Totals;
}
