//! The door to other cells past the kernel's network stack: VXLAN over UDP (RFC 7348), through
//! AF_XDP sockets at the card.
//!
//! An XDP program ([`steering`]) takes from the kernel what is ours and nothing else. Each receive
//! queue of the interface has a socket ([`queue`]) in the best mode that its driver offers; the
//! headers that the kernel would write are ours to write ([`outer`]), and so are MACs to find
//! ([`neighbours`]). Super-packets are cut here, and runs of segments that arrive are put together
//! again, as at the UDP tunnel ([`super::udp`]), whose socket receives beside them what only the
//! kernel can deal with: fragments, super-packets of UDP from this machine, queues without a socket.
//!
//! Other packets come this way too: to ports that were taken from the kernel
//! ([`XdpUplink::set_taken_ports`]). They enter as packets of the cell itself ([`Via::Host`]).
//!
//! [`Via::Host`]: crate::packet::Via::Host

mod error;
mod interface;
mod neighbours;
mod netlink;
mod open;
pub mod outer;
mod queue;
mod receive;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::XdpError;
use interface::Interface;
use neighbours::Neighbours;
pub use open::{Demand, Tuning};
use queue::{Copying, Queue};
pub use steering::AttachMode;
use steering::Steering;

use super::udp::UdpTunnel;
use super::{LinkCounters, TakenPorts};

/// The AF_XDP uplink of a cell.
pub struct XdpUplink {
    interface: Interface,
    /// Receives what the kernel keeps, and knows where the tunnel is and how large its packets are.
    kernel: Arc<UdpTunnel>,
    /// Detached before the sockets go: what arrives between is the kernel's again.
    steering: Steering,
    attached: AttachMode,
    /// Whether the driver is polled.
    busy: bool,
    queues: Vec<Queue>,
    /// By how many of the queues, from the first on, packets leave.
    senders: usize,
    neighbours: Neighbours,
    counters: LinkCounters,
}

impl XdpUplink {
    /// Address and port at which it receives.
    pub fn local(&self) -> SocketAddrV4 {
        self.kernel.local()
    }

    /// Name of its interface.
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Largest inner packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.kernel.mtu()
    }

    /// Changes the largest inner packet.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_mtu(&self, mtu: u16) -> Result<(), XdpError> {
        self.steering.set_largest(mtu)?;
        self.kernel.set_mtu(mtu);
        Ok(())
    }

    /// What receives beside the queues.
    pub fn kernel(&self) -> &Arc<UdpTunnel> {
        &self.kernel
    }

    /// What it counted.
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// The mode it really has, as in `xdp native zero-copy 2 queues busy-poll`, or that its
    /// interface is gone.
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
        let busy = if self.busy { " busy-poll" } else { "" };
        format!("xdp {} {copying} {} queue{plural}{busy}", self.attached, self.queues.len())
    }

    /// Whether the interface has other queues by now than were opened: it is to be opened anew.
    /// What arrives at a queue without a socket is received, but by way of the kernel.
    pub fn is_outgrown(&self) -> bool {
        // An interface that cannot be asked is gone, or soon will be.
        self.interface.queues_now().is_ok_and(|now| now as usize != self.queues.len())
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

    /// The sockets to wait for: one for each queue, in the order of the queues' numbers, then that
    /// of the kernel. Each becomes readable when it has packets, and those of queues report an error
    /// when the interface goes away.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(Queue::fd).chain([self.kernel.as_fd()])
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

    /// Takes these ports at the cell's address from the kernel, and gives all others back.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_taken_ports(&self, taken: &TakenPorts) -> Result<(), XdpError> {
        self.steering.set_taken_ports(taken)
    }
}
