//! The door to a container with a veth: a packet socket on the pair's end in the cell.
//!
//! The agent opens the socket ([`sarcenet_packet_socket`]) and lets a filter at that end's ingress
//! throw everything away, so that the cell's own IP stack never sees what the container sends; the
//! socket gets its copy before (`__netif_receive_skb_core`, `net/core/dev.c`).
//!
//! It is `AF_PACKET` with virtio-net headers rather than `AF_XDP` because the container keeps its
//! offloads that way: super-packets come and go whole, with their checksum state. `AF_XDP` on a
//! veth either turns TSO off for the container (native mode) or tells nothing of segment sizes and
//! partial checksums and cannot send super-packets at all (generic mode with scatter-gather).
#![deny(unsafe_code)]

mod frame;
mod sys;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use sarcenet_dataplane_api::DropReason;
use sarcenet_packet_socket::{PacketSocket, PacketSocketError};
use sarcenet_tun::Features;

use super::sys::MAX_MESSAGES;
use super::virtio::{self, HEADER_LEN};
use super::writer::Writer;
use super::{LinkCounters, MAX_BATCH_BYTES, Received, Report, Scratch};
use crate::packet::{Batch, Piece, Via};
use crate::wire::tunnel::ETHERNET_HEADER_LEN;
pub use frame::{ARP_LEN, Frame, Macs};
use sys::{Front, Message};

/// What a packet socket takes on kernels since 6.2; those before refuse the first UDP super-packet,
/// and get segments from then on.
const FEATURES: Features = Features { csum: true, tso: true, uso: true };

/// A packet socket on the cell's end of a container's veth.
pub struct VethLink {
    socket: PacketSocket,
    macs: Macs,
    via: Via,
    mtu: u16,
    writer: Writer,
    /// Whether more waited than one call of [`VethLink::receive`] took. Frames can only have been
    /// lost since if so: what one call takes is far less than fills the socket's buffer.
    behind: AtomicBool,
    counters: Arc<LinkCounters>,
}

impl VethLink {
    /// Makes a link of a packet socket that was opened by [`PacketSocket::open`], maybe in another
    /// process. `mtu` is the largest packet that is written to it, in bytes. Counts on where a link
    /// before it stopped.
    ///
    /// # Errors
    /// The descriptor is none.
    pub fn new(
        fd: OwnedFd,
        macs: Macs,
        mtu: u16,
        via: Via,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, PacketSocketError> {
        let socket = PacketSocket::from_fd(fd)?;
        let writer = Writer::ethernet(macs.ipv4_header(), FEATURES);
        Ok(Self { socket, macs, via, mtu, writer, behind: AtomicBool::new(false), counters })
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

    /// The mode it really has, as in `veth vnet-hdr csum tso uso`, or that the pair is gone.
    pub fn mode(&self) -> String {
        if self.is_gone() {
            return "veth gone".to_owned();
        }
        format!("veth {}", self.writer.features())
    }

    fn is_gone(&self) -> bool {
        if !self.writer.is_gone() && matches!(self.socket.device(), Ok(None)) {
            self.writer.set_gone();
        }
        self.writer.is_gone()
    }

    /// Reads up to `max` frames, and puts the packets of those that the container may send into
    /// the batch. ARP requests are answered at once.
    ///
    /// # Errors
    /// The pair is gone, with the container's namespace or by itself: nothing will ever come again.
    pub fn receive(
        &self,
        batch: &mut Batch,
        max: usize,
        report: &mut Report,
    ) -> io::Result<Received> {
        let mut received = Received::default();
        let (mut frames, mut bytes, mut errors) = (0, 0, 0);
        let mut failed = None;
        while frames < max && bytes < MAX_BATCH_BYTES {
            let want = MAX_MESSAGES.min(max - frames).min(batch.free_buffers()).min(batch.room());
            if want == 0 {
                break;
            }
            let mut buffers = [Piece::default(); MAX_MESSAGES];
            for buffer in &mut buffers[..want] {
                *buffer = batch.take_buffer().unwrap_or_default();
            }
            let mut fronts = [[0; sys::FRONT_LEN]; MAX_MESSAGES];
            let mut messages = [Message::default(); MAX_MESSAGES];
            let came = sys::receive(
                self.socket.as_fd(),
                batch,
                &buffers[..want],
                &mut fronts,
                &mut messages,
            );
            let count = *came.as_ref().unwrap_or(&0);
            for _ in count..want {
                batch.untake_buffer();
            }
            for ((message, front), buffer) in messages.iter().zip(&fronts).zip(&buffers).take(count)
            {
                bytes += u64::from(message.len);
                match self.take_frame(batch, *message, front, *buffer) {
                    Ok(true) => received.packets += 1,
                    Ok(false) => report.answered(1),
                    Err(reason) => {
                        report.dropped(reason, 1);
                        errors += 1;
                    }
                }
            }
            frames += count;
            match came {
                Ok(count) if count < want => received.drained = true,
                Ok(_) => continue,
                Err(Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) if self.is_gone() => {
                    failed = Some(Errno::ENODEV);
                }
                // Also of a device that is down for now: what comes later announces itself.
                Err(Errno::EAGAIN | Errno::ENETDOWN) => received.drained = true,
                // A frame that no virtio-net header can describe; it is taken off the queue
                // (`packet_recvmsg`, `net/packet/af_packet.c`).
                Err(_) => {
                    frames += 1;
                    errors += 1;
                    report.dropped(DropReason::BadOffload, 1);
                    continue;
                }
            }
            break;
        }
        self.count_lost(received.drained, report);
        self.counters.received(received.packets as u64 + errors, bytes, errors);
        failed.map_or(Ok(received), |errno| Err(errno.into()))
    }

    /// Adds the packet of a frame to the batch; false when it was an ARP request, which is answered.
    fn take_frame(
        &self,
        batch: &mut Batch,
        message: Message,
        front: &Front,
        buffer: Piece,
    ) -> Result<bool, DropReason> {
        let (header, ethernet) = front.split_at(HEADER_LEN);
        let (Some(&header), Some(&ethernet)) = (header.first_chunk(), ethernet.first_chunk())
        else {
            return Err(DropReason::Malformed);
        };
        let len = message.len.checked_sub(sys::FRONT_LEN as u32).ok_or(DropReason::Malformed)?;
        if message.truncated {
            return Err(DropReason::Malformed);
        }
        if message.tagged {
            return Err(DropReason::NotIpv4);
        }
        let piece = Piece { len, ..buffer };
        match self.macs.check(ethernet)? {
            Frame::Ipv4 => {
                let offload = virtio::decode(header, batch.bytes(piece), ETHERNET_HEADER_LEN)?;
                batch.push(piece, offload, self.via).map(|_| true).ok_or(DropReason::NoBuffer)
            }
            Frame::Arp => {
                let answer: [u8; ARP_LEN] = self.macs.answer(batch.bytes(piece))?;
                self.writer.write_frame(self.socket.as_fd(), self.macs.arp_header(), &answer)?;
                Ok(false)
            }
        }
    }

    /// Counts frames that the kernel threw away for want of room, each time that a backlog has been
    /// worked off.
    fn count_lost(&self, drained: bool, report: &mut Report) {
        if !drained {
            self.behind.store(true, Relaxed);
        } else if self.behind.load(Relaxed) {
            self.behind.store(false, Relaxed);
            match self.socket.take_lost() {
                Ok(0) => {}
                Ok(lost) => report.dropped(DropReason::NoBuffer, lost),
                Err(error) => tracing::debug!("PACKET_STATISTICS: {error}"),
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
        let fd = self.socket.as_fd();
        self.writer.transmit(fd, batch, indices, scratch, report, &self.counters)
    }
}

impl AsFd for VethLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
