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
mod outer;
mod queue;
mod receive;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::time::Duration;

pub use error::XdpError;
use error::cure;
use interface::Interface;
use neighbours::Neighbours;
use queue::{Copying, Queue};
use steering::Steering;
pub use steering::{AttachMode, Transport};

use super::LinkCounters;

/// Places in the rings of a queue, when there are few queues.
const MAX_RING: u32 = 2048;

/// Fewest places in the rings of a queue.
const MIN_RING: u32 = 256;

/// Places in the rings of all queues together, as far as [`MIN_RING`] allows: a place costs three
/// frames of 4 KiB, so this is 192 MiB at most.
const ALL_RINGS: u32 = 16_384;

/// How often and how long after each other an interface or a queue is tried that is still another
/// socket's: after a process has ended, the kernel takes its sockets off the queues later.
const BUSY_WAITS_MS: [u64; 7] = [10, 20, 50, 100, 300, 700, 1_500];

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
    gone: AtomicBool,
    counters: LinkCounters,
}

impl XdpUplink {
    /// Opens the uplink on the interface of the current network namespace that has the address
    /// `underlay`. `port` is the tunnel's, `mtu` the largest inner packet, in bytes. Without
    /// `attach`, native mode is tried first and generic mode second.
    ///
    /// It is steered from here on: what arrives waits to be received.
    ///
    /// # Errors
    /// [`XdpError`].
    pub fn open(
        underlay: Ipv4Addr,
        port: u16,
        mtu: u16,
        attach: Option<AttachMode>,
    ) -> Result<Self, XdpError> {
        let interface = Interface::with_address(underlay)?;
        let mut steering = Steering::load(underlay, port, interface.queues)?;
        // Without sockets in its table the program passes everything on to the kernel.
        let attached = attach_best(&mut steering, &interface, attach)?;
        let ring = ring_len(interface.queues);
        let open = |number| open_queue(&interface, number, ring);
        let queues = (0..interface.queues).map(open).collect::<Result<Vec<_>, _>>()?;
        let neighbours =
            Neighbours::follow(interface.index, underlay).map_err(XdpError::Netlink)?;
        for (number, queue) in (0..).zip(&queues) {
            steering.set_socket(number, queue.fd())?;
        }
        Ok(Self {
            interface,
            local: SocketAddrV4::new(underlay, port),
            mtu: AtomicU16::new(mtu),
            steering,
            attached,
            queues,
            neighbours,
            gone: AtomicBool::new(false),
            counters: LinkCounters::default(),
        })
    }

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
        if self.gone.load(Relaxed) {
            return "xdp gone".to_owned();
        }
        let zero = self.queues.iter().filter(|queue| queue.copying == Copying::Zero).count();
        let copying = match zero {
            0 => "copy",
            n if n == self.queues.len() => "zero-copy",
            _ => "partly-zero-copy",
        };
        let plural = if self.queues.len() == 1 { "" } else { "s" };
        format!("xdp {} {copying} {} queue{plural}", self.attached, self.queues.len())
    }

    /// The sockets to wait for, one for each queue, in the order of the queues' numbers. Each
    /// becomes readable when its queue has frames, and reports an error when the interface goes
    /// away.
    pub fn fds(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.queues.iter().map(Queue::fd)
    }

    /// Finds the way to a peer before there is a packet for it. A packet for one that was never
    /// asked for is dropped, and asks.
    pub fn follow(&self, peer: Ipv4Addr) {
        self.neighbours.want(peer);
    }

    /// Takes ports at the cell's address from the kernel (`taken`), or gives them back.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_ports(
        &self,
        transport: Transport,
        ports: RangeInclusive<u16>,
        taken: bool,
    ) -> Result<(), XdpError> {
        self.steering.set_ports(transport, ports, taken)
    }

    /// Frames that the kernel threw away since the start: because nobody emptied the receive
    /// rings, because there was no free frame, and for other reasons.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn lost(&self) -> io::Result<[u64; 3]> {
        self.queues.iter().try_fold([0; 3], |sum, queue| {
            let lost = queue.lost()?;
            Ok([sum[0] + lost[0], sum[1] + lost[1], sum[2] + lost[2]])
        })
    }
}

/// Places in the rings of each of so many queues.
fn ring_len(queues: u32) -> u32 {
    let share = (ALL_RINGS / queues.max(1)).clamp(MIN_RING, MAX_RING);
    // Rings have lengths that are powers of two.
    1 << share.ilog2()
}

fn attach_best(
    steering: &mut Steering,
    interface: &Interface,
    wanted: Option<AttachMode>,
) -> Result<AttachMode, XdpError> {
    let mut attach = |mode: AttachMode| {
        patiently(&format!("attaching to {}", interface.name), || {
            steering.attach(interface.index, mode)
        })
        .map_err(|source| XdpError::Attach {
            interface: interface.name.clone(),
            mode: mode.name(),
            cure: cure(&source),
            source,
        })
    };
    if let Some(mode) = wanted {
        return attach(mode).map(|()| mode);
    }
    match attach(AttachMode::Native) {
        Ok(()) => Ok(AttachMode::Native),
        // Somebody else's program stands in the way, or a right is missing: in either mode.
        Err(XdpError::Attach { source, mode, interface, cure })
            if matches!(
                source.raw_os_error(),
                Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::EACCES | libc::ENODEV)
            ) =>
        {
            Err(XdpError::Attach { interface, mode, source, cure })
        }
        Err(error) => {
            tracing::info!("{error}; using generic mode");
            attach(AttachMode::Generic).map(|()| AttachMode::Generic)
        }
    }
}

fn open_queue(interface: &Interface, number: u32, ring: u32) -> Result<Queue, XdpError> {
    let what = format!("queue {number} of {}", interface.name);
    patiently(&what, || Queue::open(&interface.name, number, ring)).map_err(|source| {
        XdpError::Socket {
            interface: interface.name.clone(),
            queue: number,
            cure: cure(&source),
            source,
        }
    })
}

/// Tries again for a while what is refused because another one has it.
fn patiently<T>(what: &str, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for wait in BUSY_WAITS_MS {
        match attempt() {
            // EEXIST: another program is attached in the other mode.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                tracing::info!("{what}: busy; trying again in {wait} ms");
                std::thread::sleep(Duration::from_millis(wait));
            }
            result => return result,
        }
    }
    attempt()
}
