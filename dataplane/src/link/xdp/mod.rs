//! The door to other cells past the kernel's network stack: VXLAN over UDP (RFC 7348), through
//! AF_XDP sockets at the card.
//!
//! An XDP program ([`steering`]) takes from the kernel what is ours and nothing else. Each receive
//! queue of the interface has a socket ([`queue`]) in the best mode that its driver offers; the
//! headers that the kernel would write are ours to write ([`outer`]), and so are MACs to find
//! ([`neighbours`]). Super-packets are cut here, and runs of segments that arrive are put together
//! again, as at the UDP tunnel ([`super::udp`]).

mod error;
mod interface;
mod neighbours;
mod netlink;
mod open;
mod outer;
mod queue;
mod receive;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use error::XdpError;
use interface::Interface;
use neighbours::Neighbours;
pub use open::Demand;
use queue::{Copying, Queue};
use sarcenet_dataplane_api::PortRange;
pub use steering::AttachMode;
use steering::Steering;

use super::LinkCounters;

/// The AF_XDP uplink of a cell.
pub struct XdpUplink {
    interface: Interface,
    local: SocketAddrV4,
    mtu: AtomicU16,
    /// Detached before the sockets go: what arrives between is the kernel's again.
    steering: Steering,
    attached: AttachMode,
    queues: Vec<Queue>,
    neighbours: Neighbours,
    counters: LinkCounters,
}

impl XdpUplink {
    /// Address and port at which it receives.
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Name of its interface.
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Largest inner packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Changes the largest inner packet.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }

    /// What it counted.
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// The mode it really has, as in `xdp native zero-copy 2 queues`, or that its interface is
    /// gone.
    pub fn mode(&self) -> String {
        if self.is_gone() {
            return "xdp gone".to_owned();
        }
        let copying = match self.zero_copy_queues() {
            0 => "copy",
            n if n == self.queues.len() => "zero-copy",
            _ => "partly-zero-copy",
        };
        let plural = if self.queues.len() == 1 { "" } else { "s" };
        format!("xdp {} {copying} {} queue{plural}", self.attached, self.queues.len())
    }

    /// Whether its interface is gone. It carries nothing any more, and never will.
    pub fn is_gone(&self) -> bool {
        self.neighbours.is_gone()
    }

    /// Whether the card reads and writes the frames of every queue itself.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy_queues() == self.queues.len()
    }

    fn zero_copy_queues(&self) -> usize {
        self.queues.iter().filter(|queue| queue.copying == Copying::Zero).count()
    }

    /// The sockets to wait for, one for each queue, in the order of the queues' numbers. Each
    /// becomes readable when its queue has frames, and reports an error when the interface goes
    /// away.
    pub fn fds(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(Queue::fd)
    }

    /// Finds the ways to these peers before there is a packet for them, and forgets all others. A
    /// packet for a peer that was not named is dropped, and looks for the way.
    pub fn follow(&self, peers: impl IntoIterator<Item = Ipv4Addr>) {
        self.neighbours.follow_only(peers);
    }

    /// Waits until the ways to all peers that it follows are known, at most so long. The kernel
    /// knows most of them already when the uplink takes the place of another one.
    pub fn wait_for_ways(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.neighbours.all_known() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes these ports at the cell's address from the kernel, and gives back all others.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_ports(&self, tcp: &[PortRange], udp: &[PortRange]) -> Result<(), XdpError> {
        self.steering.set_ports(tcp, udp)
    }
}
