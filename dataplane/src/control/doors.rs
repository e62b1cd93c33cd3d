//! The doors as the control side sees them.

use std::{
    error::Error,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
};

use sarcenet_dataplane_api::{Attach, LinkStatus, PortId, WorkerStatus};
use sarcenet_packet_socket::PacketSocket;
use sarcenet_tun::TunDevice;

use crate::{
    pipeline::Totals,
    worker::{OutsideSettings, UplinkSettings, Workers},
};

/// Why a door could not be opened, in its own words.
pub type DoorError = Box<dyn Error + Send + Sync>;

/// What can be opened and closed. The workers are it in the running program.
pub trait Doors: Send + Sync + 'static {
    /// Opens the uplink in place of the one before, which stays when this fails. Returns the mode
    /// obtained.
    fn set_uplink(&self, settings: UplinkSettings) -> Result<String, DoorError>;

    /// Whether there is an uplink as it was asked for, and its interface is as it was.
    fn has_uplink(&self) -> bool;

    /// Says where all other cells are, for the uplink to find the ways there.
    fn set_peers(&self, peers: Vec<Ipv4Addr>);

    /// Takes the host TUN's queue and MTU in place of those before, or lets go of them.
    fn set_host(&self, host: Option<(OwnedFd, u16)>) -> Result<(), DoorError>;

    /// Takes this of the kernel's traffic from now on, for the way to the outside.
    fn set_outside(&self, settings: Option<OutsideSettings>) -> Result<(), DoorError>;

    /// Takes again what went away with its interface.
    fn tend_outside(&self) -> Result<(), DoorError>;

    /// Whether packets could be carried through this descriptor, as long as its device is there;
    /// changes nothing.
    fn check_queue(&self, queue: BorrowedFd<'_>, attach: Attach) -> Result<(), DoorError>;

    /// Carries packets of `port` through `queue`, in place of the one before. `mtu` in bytes.
    fn add_container(
        &self,
        port: PortId,
        name: &str,
        attach: Attach,
        queue: OwnedFd,
        mtu: u16,
    ) -> Result<(), DoorError>;

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

    /// Nanoseconds since the workers started: their clock.
    fn now_ns(&self) -> u64;
}

impl Doors for Workers {
    fn set_uplink(&self, settings: UplinkSettings) -> Result<String, DoorError> {
        Ok(self.set_uplink(settings)?)
    }

    fn has_uplink(&self) -> bool {
        self.has_uplink()
    }

    fn set_peers(&self, peers: Vec<Ipv4Addr>) {
        self.set_peers(peers);
    }

    fn set_host(&self, host: Option<(OwnedFd, u16)>) -> Result<(), DoorError> {
        Ok(self.set_host(host)?)
    }

    fn set_outside(&self, settings: Option<OutsideSettings>) -> Result<(), DoorError> {
        Ok(self.set_outside(settings)?)
    }

    fn tend_outside(&self) -> Result<(), DoorError> {
        Ok(self.tend_outside()?)
    }

    fn check_queue(&self, queue: BorrowedFd<'_>, attach: Attach) -> Result<(), DoorError> {
        let queue = queue.try_clone_to_owned()?;
        if let Attach::Veth { .. } = attach {
            PacketSocket::from_fd(queue)?;
            return Ok(());
        }
        match TunDevice::from_fd(queue) {
            // A container may end at any moment, and its device with it: no mistake of the
            // controller's, and nothing that could be put right by sending the state again.
            Err(e) if !e.is_gone() => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn add_container(
        &self,
        port: PortId,
        name: &str,
        attach: Attach,
        queue: OwnedFd,
        mtu: u16,
    ) -> Result<(), DoorError> {
        Ok(self.add_container(port, name.to_owned(), attach, queue, mtu)?)
    }

    fn remove_container(&self, port: PortId) {
        self.remove_container(port);
    }

    fn port_fd(&self, port: PortId) -> Option<OwnedFd> {
        self.port_fd(port)
    }

    fn host_fd(&self) -> Option<OwnedFd> {
        self.host_fd()
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.links()
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        self.workers()
    }

    fn totals(&self) -> Totals {
        self.totals()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns()
    }
}
