//! The doors: where packets come in and go out.
//!
//! [`tun::TunLink`] is the door to a container or to the cell itself, [`veth::VethLink`] that to a
//! container with a veth ([`container::ContainerLink`] is either), [`udp::UdpTunnel`] the one to
//! other cells through the kernel's sockets, [`xdp::XdpUplink`] the one past them, at the card
//! ([`uplink::Uplink`] is either, and says which it is to be).
//! Checksums and segmentation are properties of a door: a super-packet is cut
//! ([`segment`]) only at one that cannot carry it whole, and a train of segments that arrives is
//! put together again ([`coalesce`]).
//!
//! Every link can be used by several workers at once: one reads it, all write to it, each with a
//! [`Scratch`] of its own.

mod bpf;
pub mod coalesce;
pub mod container;
pub mod divert;
mod group;
pub(crate) mod interface;
mod ring;
pub mod segment;
pub(crate) mod sys;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tun;
pub mod udp;
pub mod uplink;
pub mod veth;
pub mod virtio;
mod writer;
pub mod xdp;

use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use bpf::TakenPorts;
use crossbeam_utils::CachePadded;
use sarcenet_dataplane_api::DropReason;

/// What one call of `receive` brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Packets added to the batch.
    pub packets: usize,
    /// Whether the link had nothing more. When it had, its readiness is not signalled again.
    pub drained: bool,
}

/// Packets that ended at a door, by reason.
#[derive(Debug)]
pub struct Report {
    dropped: [u32; DropReason::ALL.len()],
    answered: u32,
    any: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self { dropped: [0; DropReason::ALL.len()], answered: 0, any: false }
    }
}

impl Report {
    /// Nothing to report.
    pub fn new() -> Self {
        Self::default()
    }

    /// A packet ended here.
    pub fn dropped(&mut self, reason: DropReason, n: u32) {
        self.dropped[reason as usize] += n;
        self.any = true;
    }

    /// Packets were answered at the door itself.
    pub fn answered(&mut self, n: u32) {
        self.answered += n;
    }

    /// Packets answered since the last call.
    pub fn take_answered(&mut self) -> u32 {
        std::mem::take(&mut self.answered)
    }

    /// Packets that ended for `reason` since the last [`Report::take`].
    pub fn count(&self, reason: DropReason) -> u32 {
        self.dropped[reason as usize]
    }

    /// Hands everything to `each` and begins anew.
    pub fn take(&mut self, mut each: impl FnMut(DropReason, u32)) {
        if !self.any {
            return;
        }
        for &reason in DropReason::ALL {
            match std::mem::take(&mut self.dropped[reason as usize]) {
                0 => {}
                n => each(reason, n),
            }
        }
        self.any = false;
    }
}

/// What a link counts in one direction.
#[derive(Debug, Default)]
struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

/// What a link counts. Added to once per batch.
#[derive(Debug, Default)]
pub struct LinkCounters {
    rx: CachePadded<Direction>,
    tx: CachePadded<Direction>,
}

impl LinkCounters {
    fn add(direction: &Direction, packets: u64, bytes: u64, errors: u64) {
        for (counter, n) in
            [(&direction.packets, packets), (&direction.bytes, bytes), (&direction.errors, errors)]
        {
            if n > 0 {
                counter.fetch_add(n, Relaxed);
            }
        }
    }

    fn received(&self, packets: u64, bytes: u64, errors: u64) {
        Self::add(&self.rx, packets, bytes, errors);
    }

    fn transmitted(&self, packets: u64, bytes: u64, errors: u64) {
        Self::add(&self.tx, packets, bytes, errors);
    }

    /// Packets and bytes read.
    pub fn rx(&self) -> (u64, u64) {
        (self.rx.packets.load(Relaxed), self.rx.bytes.load(Relaxed))
    }

    /// Packets and bytes written.
    pub fn tx(&self) -> (u64, u64) {
        (self.tx.packets.load(Relaxed), self.tx.bytes.load(Relaxed))
    }

    /// Reads and writes that failed, other than for want of room.
    pub fn errors(&self) -> u64 {
        self.rx.errors.load(Relaxed) + self.tx.errors.load(Relaxed)
    }
}

/// Bytes after which a link stops to fill a batch, so that a burst of super-packets is still in
/// the second-level cache (1 MiB and more) of the core that sends it on.
const MAX_BATCH_BYTES: u64 = 256 * 1024;

/// Bytes for the headers of one train of segments.
const HEADER_SCRATCH: usize = 64 * (22 + 60 + 60);

/// A worker's memory for sending and receiving: headers of segments, and lists of pieces.
pub struct Scratch {
    headers: Box<[u8]>,
    slices: Vec<IoSlice<'static>>,
    outcomes: Vec<Option<DropReason>>,
    coalescer: coalesce::Coalescer,
    /// None where the kernel gives us no ring.
    ring: Option<ring::WriteRing>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Allocates it.
    pub fn new() -> Self {
        Self {
            headers: vec![0; HEADER_SCRATCH].into_boxed_slice(),
            slices: Vec::with_capacity(sys::MAX_SLICES),
            outcomes: Vec::with_capacity(crate::packet::MAX_PACKETS),
            coalescer: coalesce::Coalescer::default(),
            ring: None,
        }
    }
}

impl Scratch {
    /// Lets the calling thread, which alone uses this scratch from now on, write many packets in
    /// one call.
    ///
    /// # Errors
    /// The kernel gives us no ring; packets are written one by one then.
    pub fn open_ring(&mut self) -> std::io::Result<()> {
        self.ring = Some(ring::WriteRing::new()?);
        Ok(())
    }
}

/// An empty list of pieces in the memory of another one: collecting from a vector's own iterator
/// reuses its allocation.
fn recycle<'a>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    slices.clear();
    slices.into_iter().map(|_| IoSlice::new(&[])).collect()
}
