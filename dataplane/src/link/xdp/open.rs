//! Opening the uplink: what is asked of the card, in which order it is tried, and how long for.
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use super::error::{XdpError, cure};
use super::interface::Interface;
use super::neighbours::Neighbours;
use super::queue::{Copying, Queue};
use super::steering::{AttachMode, Steering};
use super::{LinkCounters, XdpUplink};

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

/// What an uplink must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Whatever the card offers, the best of it: native mode before generic, zero-copy before
    /// copying. On a veth generic mode at once: a program in native mode takes segmentation offload
    /// away from the other end (`veth_xdp_set`, `drivers/net/veth.c`).
    Best,
    /// The card reads and writes the frames of all queues itself. Without that the kernel's sockets
    /// are faster.
    ZeroCopy,
    /// The program runs here, and zero-copy is tried before copying.
    Attached(AttachMode),
}

impl XdpUplink {
    /// Opens the uplink on the interface of the current network namespace that has the address
    /// `underlay`. `port` is the tunnel's, `mtu` the largest inner packet, in bytes.
    ///
    /// It is steered from here on: what arrives waits to be received.
    ///
    /// # Errors
    /// [`XdpError`]. An interface that does not satisfy the demand is left as it was.
    pub fn open(underlay: Ipv4Addr, port: u16, mtu: u16, demand: Demand) -> Result<Self, XdpError> {
        let interface = Interface::with_address(underlay)?;
        if demand == Demand::ZeroCopy {
            look_for_zero_copy(&interface)?;
        }
        let mut steering = Steering::load(underlay, port, interface.queues)?;
        // Without sockets in its table the program passes everything on to the kernel.
        let attached = attach_best(&mut steering, &interface, demand)?;
        let ring = ring_len(interface.queues);
        let copying = (demand == Demand::ZeroCopy).then_some(Copying::Zero);
        let open = |number| open_queue(&interface, number, ring, copying);
        let queues = (0..interface.queues).map(open).collect::<Result<Vec<_>, _>>()?;
        let neighbours = Neighbours::follow(&interface.name, interface.index, underlay)
            .map_err(XdpError::Netlink)?;
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
            counters: LinkCounters::default(),
        })
    }
}

/// Whether the driver knows zero-copy at all, found out without a program: attaching one in native
/// mode changes the interface, and resets many a card.
fn look_for_zero_copy(interface: &Interface) -> Result<(), XdpError> {
    let none = || XdpError::NoZeroCopy {
        interface: interface.name.clone(),
        driver: interface.driver.clone(),
    };
    if interface.is_veth() {
        return Err(none());
    }
    match open_queue(interface, 0, MIN_RING, Some(Copying::Zero)) {
        Ok(_) => Ok(()),
        Err(XdpError::Socket { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err(none())
        }
        // Some drivers give zero-copy only where a program is attached already.
        Err(XdpError::Socket { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Places in the rings of each of so many queues.
pub(super) fn ring_len(queues: u32) -> u32 {
    let share = (ALL_RINGS / queues.max(1)).clamp(MIN_RING, MAX_RING);
    // Rings have lengths that are powers of two.
    1 << share.ilog2()
}

fn attach_best(
    steering: &mut Steering,
    interface: &Interface,
    demand: Demand,
) -> Result<AttachMode, XdpError> {
    let mut attach = |mode: AttachMode| {
        patiently(&format!("attaching to {}", interface.name), || {
            steering.attach(interface.index, mode)
        })
        .map(|()| mode)
        .map_err(|source| XdpError::Attach {
            interface: interface.name.clone(),
            mode: mode.name(),
            cure: cure(&source),
            source,
        })
    };
    match demand {
        Demand::Attached(mode) => return attach(mode),
        Demand::ZeroCopy => return attach(AttachMode::Native),
        Demand::Best if interface.is_veth() => return attach(AttachMode::Generic),
        Demand::Best => {}
    }
    match attach(AttachMode::Native) {
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
            attach(AttachMode::Generic)
        }
        attached => attached,
    }
}

fn open_queue(
    interface: &Interface,
    number: u32,
    ring: u32,
    copying: Option<Copying>,
) -> Result<Queue, XdpError> {
    let what = format!("queue {number} of {}", interface.name);
    patiently(&what, || Queue::open(&interface.name, number, ring, copying)).map_err(|source| {
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
