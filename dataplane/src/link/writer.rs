//! Writing packets with a `virtio_net_hdr` in front, as TUN devices and packet sockets take them.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use sarcenet_dataplane_api::DropReason;
use sarcenet_tun::Features;

use super::group::{Group, write_one};
use super::segment::Segments;
use super::sys::MAX_SLICES;
use super::virtio::{self, HEADER_LEN};
use super::{LinkCounters, Report, Scratch, recycle};
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
        let mut indices = indices.into_iter().peekable();
        while let Some(&first) = indices.peek() {
            let mut group = Group::default();
            while let Some(&index) = indices.peek() {
                let front = |packet: &Packet| {
                    self.front.for_packet(packet.offload, batch.bytes(packet.head))
                };
                if !self.takes(batch, batch.packet(usize::from(index)))
                    || !group.add(batch, index, front)
                {
                    break;
                }
                indices.next();
            }
            // What the device refuses after all is written once more by itself, then in segments.
            let mut count = 0;
            group.write(fd, batch, scratch, |index, result, scratch| {
                let packet = batch.packet(usize::from(index));
                let result = match result {
                    Err(Errno::EINVAL) => self.write(fd, batch, packet, scratch),
                    result => result,
                };
                sent.add(packet, result, self, report);
                count += 1;
            });
            if count == 0 {
                let packet = batch.packet(usize::from(first));
                sent.add(packet, self.write(fd, batch, packet, scratch), self, report);
                indices.next();
            }
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
        write_one(fd, &slices).map_err(|errno| self.failure(errno))
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
            return write_one(fd, &[IoSlice::new(header.as_ref()), IoSlice::new(head)]);
        }
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        slices.push(IoSlice::new(header.as_ref()));
        slices.push(IoSlice::new(head));
        slices.extend(tail.iter().map(|&piece| IoSlice::new(batch.bytes(piece))));
        let result = write_one(fd, &slices);
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
            own.push(IoSlice::new(complete.as_ref()));
            own.push(IoSlice::new(&[]));
            segments.next(header, |slice| own.push(IoSlice::new(slice)));
            own[1] = IoSlice::new(header);
            result = write_one(fd, &own);
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

impl AsRef<[u8]> for Front {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
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

#[cfg(test)]
mod tests;
