//! Writing packets with a `virtio_net_hdr` in front, as TUN devices and packet sockets take them.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::uio::writev;
use sarcenet_dataplane_api::DropReason;
use sarcenet_tun::Features;

use super::segment::Segments;
use super::sys::MAX_SLICES;
use super::virtio::{self, HEADER_LEN};
use super::{LinkCounters, Report, Scratch, recycle, ring};
use crate::packet::{Batch, Checksum, Offload, Packet, Segmentation};
use crate::wire::tunnel::ETHERNET_HEADER_LEN;

/// What stands in front of every packet: the `virtio_net_hdr`, and the Ethernet header where the
/// device has one.
const MAX_FRONT: usize = HEADER_LEN + ETHERNET_HEADER_LEN;

/// The writing half of a link.
pub(super) struct Writer {
    /// Template of the front; zeroes where the `virtio_net_hdr` is to be.
    front: Front,
    /// What may be left to the device; taken back when the kernel refuses it.
    csum: AtomicBool,
    tso: AtomicBool,
    uso: AtomicBool,
    gone: AtomicBool,
}

impl Writer {
    /// For a device that takes IP packets.
    pub(super) fn ip(features: Features) -> Self {
        Self::new(&[], features)
    }

    /// For a device that takes Ethernet frames, all with this header.
    pub(super) fn ethernet(header: [u8; ETHERNET_HEADER_LEN], features: Features) -> Self {
        Self::new(&header, features)
    }

    fn new(link_header: &[u8], Features { csum, tso, uso }: Features) -> Self {
        let mut front = Front { bytes: [0; MAX_FRONT], len: HEADER_LEN + link_header.len() };
        front.bytes[HEADER_LEN..front.len].copy_from_slice(link_header);
        Self {
            front,
            csum: AtomicBool::new(csum),
            tso: AtomicBool::new(tso),
            uso: AtomicBool::new(uso),
            gone: AtomicBool::new(false),
        }
    }

    /// What the device really takes.
    pub(super) fn features(&self) -> Features {
        Features {
            csum: self.csum.load(Relaxed),
            tso: self.tso.load(Relaxed),
            uso: self.uso.load(Relaxed),
        }
    }

    /// Whether the device was found gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// The device is gone.
    pub(super) fn set_gone(&self) {
        self.gone.store(true, Relaxed);
    }

    /// Writes packets of the batch in the given order. What fails is reported; returns how many
    /// were written.
    pub(super) fn transmit(
        &self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
        counters: &LinkCounters,
    ) -> usize {
        let mut sent = Sent::default();
        let mut indices = indices.into_iter();
        let mut next = indices.next();
        while let Some(first) = next {
            let mut group = Group::new(self.front);
            let packet = batch.packet(usize::from(first));
            if !self.takes(batch, packet) || !group.add(batch, packet) || scratch.ring.is_none() {
                sent.add(packet, self.write(fd, batch, packet, scratch), self, report);
                next = indices.next();
                continue;
            }
            loop {
                next = indices.next();
                let Some(index) = next else { break };
                let packet = batch.packet(usize::from(index));
                if !self.takes(batch, packet) || !group.add(batch, packet) {
                    break;
                }
            }
            self.write_group(fd, batch, &group, scratch, &mut sent, report);
        }
        counters.transmitted(sent.packets, sent.bytes, sent.errors);
        sent.packets as usize
    }

    /// Writes a frame of its own kind.
    pub(super) fn write_frame(
        &self,
        fd: BorrowedFd<'_>,
        header: [u8; ETHERNET_HEADER_LEN],
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let slices = [&[0; HEADER_LEN], &header[..], payload].map(IoSlice::new);
        write_slices(fd, &slices).map_err(|errno| self.failure(errno))
    }

    /// Writes packets that the device takes as they are, in one call for all. What the device
    /// refuses after all is written once more by itself, then in segments.
    fn write_group(
        &self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        group: &Group<'_>,
        scratch: &mut Scratch,
        sent: &mut Sent,
        report: &mut Report,
    ) {
        let packets = &group.packets[..group.count];
        let mut results = [Err(Errno::EINVAL); ring::DEPTH];
        if let [_, _, ..] = packets
            && let Some(ring) = &mut scratch.ring
        {
            let headers = packets.iter().flatten().zip(&group.fronts);
            let mut slices = recycle(std::mem::take(&mut scratch.slices));
            let mut ends = [0; ring::DEPTH];
            for ((packet, header), end) in headers.zip(&mut ends) {
                slices.push(IoSlice::new(header));
                slices.push(IoSlice::new(batch.bytes(packet.head)));
                slices.extend(batch.tail(packet).iter().map(|&p| IoSlice::new(batch.bytes(p))));
                *end = slices.len();
            }
            let messages = (0..group.count).map(|number| {
                let start = number.checked_sub(1).map_or(0, |before| ends[before]);
                &slices[start..ends[number]]
            });
            if let Err(error) = ring.write(fd, messages, |number, result| results[number] = result)
            {
                tracing::warn!("io_uring: {error}; packets are written one by one from now on");
                scratch.ring = None;
            }
            scratch.slices = recycle(slices);
        }
        for (packet, result) in packets.iter().flatten().zip(results) {
            let result = match result {
                Err(Errno::EINVAL) => self.write(fd, batch, packet, scratch),
                result => result,
            };
            sent.add(packet, result, self, report);
        }
    }

    fn failure(&self, errno: Errno) -> DropReason {
        match errno {
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => DropReason::LinkFull,
            // What a TUN says without its device, and a packet socket.
            Errno::EBADFD | Errno::EBADF | Errno::ENODEV | Errno::ENXIO => {
                self.set_gone();
                DropReason::LinkGone
            }
            // Down for now, which may end.
            Errno::ENETDOWN => DropReason::LinkGone,
            _ => DropReason::LinkError,
        }
    }

    /// Whether the device takes this packet as it is.
    fn takes(&self, batch: &Batch, packet: &Packet) -> bool {
        let offload = match packet.offload.segmentation {
            Segmentation::None if !is_partial(packet.offload) => return true,
            Segmentation::None => &self.csum,
            Segmentation::Tcp { .. } => &self.tso,
            Segmentation::Udp { .. } => &self.uso,
        };
        offload.load(Relaxed) && batch.tail(packet).len() + 2 <= MAX_SLICES
    }

    fn write(
        &self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        packet: &Packet,
        scratch: &mut Scratch,
    ) -> nix::Result<()> {
        if self.takes(batch, packet) {
            let result = self.write_whole(fd, batch, packet, scratch);
            if result != Err(Errno::EINVAL) {
                return result;
            }
            match packet.offload.segmentation {
                // Nothing was asked of the device: it is the packet that is wrong.
                Segmentation::None => return result,
                Segmentation::Tcp { .. } => self.tso.store(false, Relaxed),
                Segmentation::Udp { .. } => self.uso.store(false, Relaxed),
            }
        }
        self.write_segments(fd, batch, packet, scratch)
    }

    /// One call for the whole packet.
    fn write_whole(
        &self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        packet: &Packet,
        scratch: &mut Scratch,
    ) -> nix::Result<()> {
        let head = batch.bytes(packet.head);
        let header = self.front.for_packet(packet.offload, head);
        let tail = batch.tail(packet);
        if tail.is_empty() {
            return write_slices(fd, &[IoSlice::new(&header), IoSlice::new(head)]);
        }
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        slices.push(IoSlice::new(&header));
        slices.push(IoSlice::new(head));
        slices.extend(tail.iter().map(|&piece| IoSlice::new(batch.bytes(piece))));
        let result = write_slices(fd, &slices);
        scratch.slices = recycle(slices);
        result
    }

    /// One call for each segment.
    fn write_segments(
        &self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        packet: &Packet,
        scratch: &mut Scratch,
    ) -> nix::Result<()> {
        let mut segments = Segments::new(batch, packet, 0).map_err(|_| Errno::EINVAL)?;
        let complete = self.front.for_packet(Offload::default(), &[]);
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        let mut result = Ok(());
        while result.is_ok() && segments.next_len().is_some() {
            let mut own = recycle(std::mem::take(&mut slices));
            let header = &mut scratch.headers[..segments.header_len()];
            // The slices of the payload come before the headers are finished: hold their places.
            own.push(IoSlice::new(&complete));
            own.push(IoSlice::new(&[]));
            segments.next(header, |slice| own.push(IoSlice::new(slice)));
            own[1] = IoSlice::new(header);
            result = write_slices(fd, &own);
            slices = recycle(own);
        }
        scratch.slices = slices;
        result
    }

    /// Makes it a link to a device without offloads.
    #[cfg(test)]
    pub(super) fn refuse_offloads(&self) {
        for offload in [&self.csum, &self.tso, &self.uso] {
            offload.store(false, Relaxed);
        }
    }
}

fn write_slices(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> nix::Result<()> {
    loop {
        match writev(fd, slices) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

fn is_partial(offload: Offload) -> bool {
    matches!(offload.checksum, Checksum::Partial { .. })
}

/// The bytes in front of a packet.
#[derive(Clone, Copy)]
struct Front {
    bytes: [u8; MAX_FRONT],
    len: usize,
}

impl Front {
    /// The front of a packet whose first bytes are `head`.
    fn for_packet(mut self, offload: Offload, head: &[u8]) -> Self {
        let link_header = self.len - HEADER_LEN;
        self.bytes[..HEADER_LEN].copy_from_slice(&virtio::encode(offload, head, link_header));
        self
    }
}

impl Deref for Front {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Packets that are written in one call, and what stands in front of each.
struct Group<'a> {
    packets: [Option<&'a Packet>; ring::DEPTH],
    template: Front,
    fronts: [Front; ring::DEPTH],
    count: usize,
    slices: usize,
}

impl<'a> Group<'a> {
    fn new(template: Front) -> Self {
        let fronts = [template; ring::DEPTH];
        Self { packets: [None; ring::DEPTH], template, fronts, count: 0, slices: 0 }
    }

    /// Adds a packet. False when there is no room.
    fn add(&mut self, batch: &Batch, packet: &'a Packet) -> bool {
        let slices = self.slices + 2 + batch.tail(packet).len();
        if self.count == ring::DEPTH || slices > MAX_SLICES {
            return false;
        }
        self.packets[self.count] = Some(packet);
        self.fronts[self.count] =
            self.template.for_packet(packet.offload, batch.bytes(packet.head));
        self.count += 1;
        self.slices = slices;
        true
    }
}

/// What became of packets.
#[derive(Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    errors: u64,
}

impl Sent {
    fn add(
        &mut self,
        packet: &Packet,
        result: nix::Result<()>,
        writer: &Writer,
        report: &mut Report,
    ) {
        match result {
            Ok(()) => {
                self.packets += 1;
                self.bytes += packet.len() as u64;
            }
            Err(errno) => {
                let reason = writer.failure(errno);
                self.errors += u64::from(reason == DropReason::LinkError);
                report.dropped(reason, 1);
            }
        }
    }
}
