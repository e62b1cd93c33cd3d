//! The door to a container, or to the cell itself: a TUN device.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::readv;
use sarcenet_dataplane_api::DropReason;
use sarcenet_tun::{Features, TunDevice, TunError};

use super::group::{Group, write_one};
use super::segment::Segments;
use super::sys::MAX_SLICES;
use super::virtio::{self, HEADER_LEN};
use super::{LinkCounters, MAX_BATCH_BYTES, Received, Report, Scratch, recycle};
use crate::packet::{Batch, Checksum, Offload, Packet, Piece, Segmentation, Via};

/// A TUN device that is read and written without waiting. One read or write carries one packet,
/// or one super-packet.
pub struct TunLink {
    fd: OwnedFd,
    via: Via,
    mtu: u16,
    /// What may be left to the device; taken back when the kernel refuses it.
    csum: AtomicBool,
    tso: AtomicBool,
    uso: AtomicBool,
    gone: AtomicBool,
    counters: Arc<LinkCounters>,
}

/// Why a descriptor could not become a link.
#[derive(Debug, thiserror::Error)]
pub enum TunLinkError {
    /// It is no device that we can use.
    #[error(transparent)]
    Device(#[from] TunError),
    /// It could not be set up.
    #[error("setting a TUN descriptor to non-blocking: {0}")]
    NonBlocking(io::Error),
}

impl TunLink {
    /// Makes a link of a TUN descriptor that was opened by [`TunDevice::open`], maybe in another
    /// process. `mtu` is the largest packet that is written to it, in bytes.
    ///
    /// # Errors
    /// [`TunLinkError`].
    pub fn new(fd: OwnedFd, mtu: u16, via: Via) -> Result<Self, TunLinkError> {
        Self::with_counters(fd, mtu, via, Arc::default())
    }

    /// The same, counting on where a link before it stopped.
    ///
    /// # Errors
    /// [`TunLinkError`].
    pub fn with_counters(
        fd: OwnedFd,
        mtu: u16,
        via: Via,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, TunLinkError> {
        let device = TunDevice::from_fd(fd)?;
        let Features { csum, tso, uso } = device.features();
        let fd = device.into_fd();
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| TunLinkError::NonBlocking(errno.into()))?;
        Ok(Self {
            fd,
            via,
            mtu,
            csum: AtomicBool::new(csum),
            tso: AtomicBool::new(tso),
            uso: AtomicBool::new(uso),
            gone: AtomicBool::new(false),
            counters,
        })
    }

    /// Which door this is.
    pub fn via(&self) -> Via {
        self.via
    }

    /// Largest packet that is written to it, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What it counted.
    pub fn counters(&self) -> &Arc<LinkCounters> {
        &self.counters
    }

    /// The mode it really has, as in `tun vnet-hdr csum tso uso`, or that its namespace is gone.
    pub fn mode(&self) -> String {
        if self.gone.load(Relaxed) {
            return "tun gone".to_owned();
        }
        let features = Features {
            csum: self.csum.load(Relaxed),
            tso: self.tso.load(Relaxed),
            uso: self.uso.load(Relaxed),
        };
        format!("tun {features}")
    }

    /// Reads up to `max` packets into the batch.
    ///
    /// # Errors
    /// The device is gone, with its namespace (`EBADFD`) or by itself: nothing will ever come
    /// again.
    pub fn receive(
        &self,
        batch: &mut Batch,
        max: usize,
        report: &mut Report,
    ) -> io::Result<Received> {
        let mut received = Received::default();
        let (mut bytes, mut errors) = (0, 0);
        let mut failed = None;
        while received.packets < max && batch.room() > 0 && bytes < MAX_BATCH_BYTES {
            let Some(buffer) = batch.take_buffer() else { break };
            let mut header = [0; HEADER_LEN];
            let mut slices =
                [IoSliceMut::new(&mut header), IoSliceMut::new(batch.bytes_mut(buffer))];
            let n = match readv(&self.fd, &mut slices) {
                Ok(n) => n,
                Err(errno) => {
                    batch.untake_buffer();
                    match errno {
                        Errno::EINTR => continue,
                        Errno::EAGAIN => received.drained = true,
                        errno => failed = Some(errno),
                    }
                    break;
                }
            };
            let piece = Piece { len: n.saturating_sub(HEADER_LEN) as u32, ..buffer };
            bytes += u64::from(piece.len);
            match virtio::decode(header, batch.bytes(piece)) {
                Ok(offload) => {
                    batch.push(piece, offload, self.via);
                    received.packets += 1;
                }
                Err(reason) => {
                    batch.untake_buffer();
                    report.dropped(reason, 1);
                    errors += 1;
                }
            }
        }
        self.counters.received(received.packets as u64 + errors, bytes, errors);
        match failed {
            None => Ok(received),
            // A device that is down for now says so with EIO; one that is gone stays gone.
            Some(Errno::EIO) => Ok(Received { drained: true, ..received }),
            Some(errno) => {
                self.gone.store(true, Relaxed);
                Err(errno.into())
            }
        }
    }

    /// Writes packets of the batch whose verdict is this door, in the given order. What fails is
    /// reported; returns how many were written.
    pub fn transmit(
        &self,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        let mut sent = Sent::default();
        let mut indices = indices.into_iter().peekable();
        while let Some(&first) = indices.peek() {
            let mut group = Group::default();
            while let Some(&index) = indices.peek() {
                let header =
                    |packet: &Packet| virtio::encode(packet.offload, batch.bytes(packet.head));
                if !self.takes(batch, batch.packet(usize::from(index)))
                    || !group.add(batch, index, header)
                {
                    break;
                }
                indices.next();
            }
            // What the device refuses after all is written once more by itself, then in segments.
            let mut count = 0;
            group.write(self.fd.as_fd(), batch, scratch, |index, result, scratch| {
                let packet = batch.packet(usize::from(index));
                let result = match result {
                    Err(Errno::EINVAL) => self.write(batch, packet, scratch),
                    result => result,
                };
                sent.add(packet, result, self, report);
                count += 1;
            });
            if count == 0 {
                let packet = batch.packet(usize::from(first));
                sent.add(packet, self.write(batch, packet, scratch), self, report);
                indices.next();
            }
        }
        self.counters.transmitted(sent.packets, sent.bytes, sent.errors);
        sent.packets as usize
    }

    fn failure(&self, errno: Errno) -> DropReason {
        match errno {
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => DropReason::LinkFull,
            Errno::EBADFD | Errno::EBADF | Errno::ENODEV => {
                self.gone.store(true, Relaxed);
                DropReason::LinkGone
            }
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

    fn write(&self, batch: &Batch, packet: &Packet, scratch: &mut Scratch) -> nix::Result<()> {
        if self.takes(batch, packet) {
            let result = self.write_whole(batch, packet, scratch);
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
        self.write_segments(batch, packet, scratch)
    }

    /// One call for the whole packet.
    fn write_whole(
        &self,
        batch: &Batch,
        packet: &Packet,
        scratch: &mut Scratch,
    ) -> nix::Result<()> {
        let head = batch.bytes(packet.head);
        let header = virtio::encode(packet.offload, head);
        let tail = batch.tail(packet);
        if tail.is_empty() {
            return write_one(self.fd.as_fd(), &[IoSlice::new(&header), IoSlice::new(head)]);
        }
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        slices.push(IoSlice::new(&header));
        slices.push(IoSlice::new(head));
        slices.extend(tail.iter().map(|&piece| IoSlice::new(batch.bytes(piece))));
        let result = write_one(self.fd.as_fd(), &slices);
        scratch.slices = recycle(slices);
        result
    }

    /// One call for each segment.
    fn write_segments(
        &self,
        batch: &Batch,
        packet: &Packet,
        scratch: &mut Scratch,
    ) -> nix::Result<()> {
        let mut segments = Segments::new(batch, packet, 0).map_err(|_| Errno::EINVAL)?;
        let complete = virtio::encode(Offload::default(), &[]);
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
            result = write_one(self.fd.as_fd(), &own);
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

impl AsFd for TunLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_partial(offload: Offload) -> bool {
    matches!(offload.checksum, Checksum::Partial { .. })
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
        link: &TunLink,
        report: &mut Report,
    ) {
        match result {
            Ok(()) => {
                self.packets += 1;
                self.bytes += packet.len() as u64;
            }
            Err(errno) => {
                let reason = link.failure(errno);
                self.errors += u64::from(reason == DropReason::LinkError);
                report.dropped(reason, 1);
            }
        }
    }
}
