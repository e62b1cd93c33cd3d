//! Sending: packets and segments of super-packets with outer headers, copied into frames.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sarcenet_dataplane_api::DropReason;

use super::XdpUplink;
use super::neighbours::{Way, Ways};
use super::outer::{OUTER_LEN, Outer, source_port, sum_by_headers};
use super::queue::{FRAME_ROOM, PacketWriter, Queue, Transmitter};
use crate::link::segment::Segments;
use crate::link::{Report, Scratch};
use crate::packet::{Batch, Checksum, Packet, Verdict, Via};
use crate::wire::checksum::Sum;
use crate::wire::tunnel::{ETHERNET_HEADER_LEN, TUNNEL_HEADER_LEN};

/// How long a full ring is waited for. It empties at the speed of the card; what is still full
/// then is stuck.
const FULL_TIMEOUT: Duration = Duration::from_millis(3);

/// What one call does with its packets.
struct Sending<'a> {
    uplink: &'a XdpUplink,
    queue: &'a Queue,
    tx: &'a mut Transmitter,
    ways: Option<&'a Ways>,
    /// The peer that was looked up last.
    last: Option<(Ipv4Addr, Way)>,
    /// When waiting for a full ring ends; the packets of one batch wait once.
    patience: Option<Instant>,
    headers: &'a mut [u8],
    bytes: u64,
    errors: u64,
}

impl XdpUplink {
    /// Sends packets of the batch whose verdict is the tunnel, each beginning with its tunnel
    /// header, in the given order. `worker` is the number of the calling worker, by which it has a
    /// queue that is its own as long as there are enough. What fails is reported; returns how many
    /// were sent.
    pub fn transmit(
        &self,
        worker: usize,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        let queue = &self.queues[worker % self.senders];
        let guard = crossbeam_epoch::pin();
        let mut tx = queue.tx.lock();
        tx.reclaim();
        let mut sending = Sending {
            uplink: self,
            queue,
            tx: &mut tx,
            ways: self.neighbours.ways(&guard),
            last: None,
            patience: None,
            headers: &mut scratch.headers,
            bytes: 0,
            errors: 0,
        };
        let mut packets = 0;
        for index in indices {
            match sending.packet(batch, batch.packet(usize::from(index))) {
                Ok(()) => packets += 1,
                Err(reason) => {
                    sending.errors += u64::from(reason == DropReason::LinkError);
                    report.dropped(reason, 1);
                }
            }
        }
        sending.tx.submit();
        sending.drive();
        let (bytes, errors) = (sending.bytes, sending.errors);
        self.counters.transmitted(packets, bytes, errors);
        packets as usize
    }
}

impl Sending<'_> {
    fn packet(&mut self, batch: &Batch, packet: &Packet) -> Result<(), DropReason> {
        let Verdict::Forward(Via::Tunnel(peer)) = packet.verdict else {
            return Err(DropReason::LinkError);
        };
        if self.uplink.is_gone() {
            return Err(DropReason::LinkGone);
        }
        let Way::Known(hop) = self.way(peer) else { return Err(DropReason::NextHopUnknown) };
        let outer = Outer {
            hop,
            source: *self.uplink.local().ip(),
            destination: peer,
            source_port: source_port(packet.flow_hash),
            port: self.uplink.local().port(),
        };
        let offload = packet.offload;
        let as_it_is = offload.segmentation.size().is_none()
            && !matches!(offload.checksum, Checksum::Partial { .. });
        if as_it_is {
            return self.whole(batch, packet, &outer);
        }
        let mut segments =
            Segments::new(batch, packet, TUNNEL_HEADER_LEN).map_err(|_| DropReason::LinkError)?;
        while let Some(len) = segments.next_len() {
            let header_len = segments.header_len();
            self.make_room(len)?;
            let header = &mut self.headers[OUTER_LEN..][..header_len];
            let mut writer = begin(self.tx, OUTER_LEN + header_len)?;
            let mut written = true;
            segments.next(header, |slice| written &= writer.write(slice));
            // The segment's checksum was just computed.
            let sum = sum_by_headers(header, len);
            let (Some(sum), true) = (sum, written) else {
                writer.abandon();
                return Err(DropReason::LinkError);
            };
            finish(writer, &outer, len, sum, &self.headers[OUTER_LEN..][..header_len]);
            self.bytes += len as u64;
        }
        Ok(())
    }

    /// Sends a packet that is complete.
    fn whole(&mut self, batch: &Batch, packet: &Packet, outer: &Outer) -> Result<(), DropReason> {
        let len = packet.len();
        self.make_room(len)?;
        let (head, tail) = (batch.bytes(packet.head), batch.tail(packet));
        let known = match packet.offload.checksum {
            Checksum::Verified => sum_by_headers(head, len),
            _ => None,
        };
        let mut writer = begin(self.tx, OUTER_LEN)?;
        let mut sum = known.unwrap_or_default();
        let slices = std::iter::once(head).chain(tail.iter().map(|&piece| batch.bytes(piece)));
        for slice in slices {
            if known.is_none() {
                sum = sum.add(slice);
            }
            if !writer.write(slice) {
                writer.abandon();
                return Err(DropReason::LinkFull);
            }
        }
        finish(writer, outer, len, sum, &[]);
        self.bytes += len as u64;
        Ok(())
    }

    /// The way to a peer. One that was never asked for is looked for from now on.
    fn way(&mut self, peer: Ipv4Addr) -> Way {
        match self.last {
            Some((last, way)) if last == peer => way,
            _ => {
                let way = self.uplink.neighbours.way(self.ways, peer);
                self.last = Some((peer, way));
                way
            }
        }
    }

    /// Makes room for a datagram, waiting for the card if need be.
    fn make_room(&mut self, len: usize) -> Result<(), DropReason> {
        let len = OUTER_LEN + len;
        if len > ETHERNET_HEADER_LEN + self.uplink.neighbours.device_mtu() {
            return Err(DropReason::LinkError);
        }
        if self.tx.has_room(len) {
            return Ok(());
        }
        self.tx.submit();
        let end = *self.patience.get_or_insert_with(|| Instant::now() + FULL_TIMEOUT);
        loop {
            self.kick();
            self.tx.reclaim();
            if self.tx.has_room(len) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(DropReason::LinkFull);
            }
            self.queue.wait(1);
        }
    }

    /// Has the kernel send what is in the ring, as long as it gets on with it. What it does not
    /// take in time stays in the ring for the next call.
    fn drive(&mut self) {
        let mut before = self.tx.waiting();
        while before > 0 && self.kick() {
            self.tx.reclaim();
            let now = self.tx.waiting();
            if now == before {
                let end = *self.patience.get_or_insert_with(|| Instant::now() + FULL_TIMEOUT);
                if Instant::now() >= end {
                    return;
                }
                self.queue.wait(1);
            }
            before = now;
        }
    }

    /// Tells the kernel to send. Returns whether there is more to be told.
    fn kick(&mut self) -> bool {
        match self.tx.kick() {
            Ok(()) => false,
            // More than it sends at once; the card's queue is full; memory for packets on their
            // way is used up.
            Err(Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::EINTR) => true,
            Err(errno) => {
                self.errors += 1;
                if errno == Errno::ENXIO {
                    self.uplink.neighbours.set_gone();
                }
                false
            }
        }
    }
}

fn begin(tx: &mut Transmitter, skip: usize) -> Result<PacketWriter<'_>, DropReason> {
    debug_assert!(skip < FRAME_ROOM);
    tx.begin(skip).ok_or(DropReason::LinkFull)
}

/// Puts the outer headers, and those that were not copied yet, in front of a datagram.
fn finish(writer: PacketWriter<'_>, outer: &Outer, len: usize, sum: Sum, header: &[u8]) {
    let mut front = [0; OUTER_LEN];
    outer.emit(len, sum, &mut front);
    writer.finish(&[&front, header]);
}
