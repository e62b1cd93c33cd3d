//! Opening the uplink: what is asked of the card, in which order it is tried, and how long for.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::error::{XdpError, cure};
use super::interface::Interface;
use super::neighbours::Neighbours;
use super::queue::{Copying, Memory, Queue};
use super::steering::{AttachMode, Steering};
use super::{LinkCounters, XdpUplink};
use crate::link::udp::UdpTunnel;

/// Places in the rings of a queue, when there are few queues.
const MAX_RING: u32 = 2048;

/// Fewest places in the rings of a queue.
const MIN_RING: u32 = 256;

/// Places in the rings of all queues together, as far as [`MIN_RING`] allows: a place costs two
/// frames of 4 KiB, and one more where packets are sent, so this is 192 MiB at most.
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

/// How an uplink serves the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// How many workers there are. Worker w reads the queues that are w modulo this number, and
    /// sends by the first of them.
    pub workers: usize,
    /// How long after a frame a queue's driver is polled, rather than its interrupt waited for; not
    /// at all if zero. Only in native mode: in generic mode packets have left the driver already.
    pub busy_poll: Duration,
}

impl XdpUplink {
    /// Opens the uplink on the interface of the current network namespace that has the address at
    /// which `kernel` receives, which takes what the kernel keeps of the tunnel's packets. `mtu` is
    /// the largest inner packet, in bytes.
    ///
    /// It is steered from here on: what arrives waits to be received.
    ///
    /// # Errors
    /// [`XdpError`]. An interface that does not satisfy the demand is left as it was.
    pub fn open(
        kernel: Arc<UdpTunnel>,
        mtu: u16,
        demand: Demand,
        tuning: Tuning,
    ) -> Result<Self, XdpError> {
        let (underlay, port) = (*kernel.local().ip(), kernel.local().port());
        let interface = Interface::with_address(underlay)?;
        if demand == Demand::ZeroCopy {
            look_for_zero_copy(&interface)?;
        }
        let mut steering = Steering::load(underlay, port, interface.queues)?;
        // Without sockets in its table the program passes everything on to the kernel.
        let attached = attach_best(&mut steering, &interface, demand)?;
        steering.set_largest(mtu)?;
        let copying = (demand == Demand::ZeroCopy).then_some(Copying::Zero);
        let queues = open_queues(&interface, tuning.workers.max(1), copying)?;
        let busy = attached == AttachMode::Native && poll_busily(&queues, tuning.busy_poll);
        let neighbours = Neighbours::follow(&interface.name, interface.index, underlay)
            .map_err(XdpError::Netlink)?;
        for (number, queue) in (0..).zip(&queues) {
            steering.set_socket(number, queue.fd())?;
        }
        Ok(Self {
            interface,
            kernel,
            steering,
            attached,
            busy,
            senders: queues.len().min(tuning.workers.max(1)),
            queues,
            neighbours,
            counters: LinkCounters::default(),
        })
    }
}

/// Opens all queues, those of one worker on one memory.
fn open_queues(
    interface: &Interface,
    workers: usize,
    copying: Option<Copying>,
) -> Result<Vec<Queue>, XdpError> {
    let ring = ring_len(interface.queues);
    let mut memories = Vec::new();
    let mut queues = Vec::new();
    for number in 0..interface.queues {
        let worker = number as usize % workers;
        let first = number as usize == worker;
        if first {
            let share = (interface.queues - number).div_ceil(workers as u32);
            memories.push(memory(interface, number, share, ring)?);
        }
        let memory = &mut memories[worker];
        queues.push(match open_queue(interface, number, memory, copying, first) {
            // A driver need not have zero-copy on all queues, and those that share memory are all
            // alike.
            Err(XdpError::Socket { source, .. }) if !first && refuses_to_share(&source) => {
                tracing::info!("queue {number} of {} has memory of its own", interface.name);
                let mut own = self::memory(interface, number, 1, ring)?;
                open_queue(interface, number, &mut own, copying, false)?
            }
            opened => opened?,
        });
    }
    Ok(queues)
}

fn refuses_to_share(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL))
}

/// Has the drivers of all queues polled, if that is asked for. Returns whether they are.
fn poll_busily(queues: &[Queue], period: Duration) -> bool {
    let asked = !period.is_zero();
    asked
        && queues.iter().all(|queue| {
            let obtained = queue.poll_busily(period);
            if let Err(error) = &obtained {
                tracing::warn!("busy polling: {error}; interrupts are waited for");
            }
            obtained.is_ok()
        })
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
    let mut memory = memory(interface, 0, 1, MIN_RING)?;
    match open_queue(interface, 0, &mut memory, Some(Copying::Zero), true) {
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

/// Memory for so many queues, the first of which is `number`.
fn memory(interface: &Interface, number: u32, queues: u32, ring: u32) -> Result<Memory, XdpError> {
    Memory::new(queues, ring).map_err(|source| socket_error(interface, number, source))
}

fn open_queue(
    interface: &Interface,
    number: u32,
    memory: &mut Memory,
    copying: Option<Copying>,
    sends: bool,
) -> Result<Queue, XdpError> {
    let what = format!("queue {number} of {}", interface.name);
    patiently(&what, || Queue::open(&interface.name, number, memory, copying, sends))
        .map_err(|source| socket_error(interface, number, source))
}

fn socket_error(interface: &Interface, queue: u32, source: io::Error) -> XdpError {
    let interface = interface.name.clone();
    XdpError::Socket { interface, queue, cure: cure(&source), source }
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
