//! Receiving: frames out of the ring, without their outer headers, in trains of equal datagrams.
#![forbid(unsafe_code)]

use std::io;

use sarcenet_dataplane_api::DropReason;
use smoltcp::wire::Ipv4Packet;

use super::XdpUplink;
use super::outer;
use super::queue::{Next, Queue, Receiver};
use crate::link::coalesce::{Coalescer, MAX_TRAIN};
use crate::link::{MAX_BATCH_BYTES, Received, Report, Scratch};
use crate::packet::{BUFFER_LEN, Batch, Piece, Via};
use crate::wire::headers::IPV4_HEADER_LEN;
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

/// Conversations whose datagrams are collected side by side: as many as the kernel's GRO keeps in
/// one of its lists (`MAX_GRO_SKBS`).
const OPEN: usize = 8;

/// Frames in one call after which the kernel may have had no room for others.
const FEW: u64 = 64;

/// Datagrams of one conversation behind each other in one buffer, all of one length but the last:
/// what a socket with `UDP_GRO` would hand out.
/// Packets that are not the tunnel's are collected the same way.
#[derive(Clone, Copy)]
struct Train {
    /// The headers of the first.
    from: outer::Received,
    /// The buffer.
    buffer: Piece,
    /// Bytes of it that are used.
    used: usize,
    /// Length of the datagrams, in bytes.
    stride: usize,
    count: usize,
    /// Whether a shorter datagram has ended it.
    closed: bool,
}

impl Train {
    fn via(&self) -> Via {
        if self.from.is_tunnel() { Via::Tunnel(*self.from.source.ip()) } else { Via::Host }
    }

    fn takes(&self, len: usize) -> bool {
        !self.closed
            && len <= self.stride
            && self.count < MAX_TRAIN
            && self.used + len <= BUFFER_LEN
    }
}

/// What one call collects.
struct Collector<'a> {
    batch: &'a mut Batch,
    coalescer: &'a mut Coalescer,
    report: &'a mut Report,
    trains: [Option<Train>; OPEN],
    /// Train that is closed next when there are too many.
    oldest: usize,
    /// Largest inner packet of the tunnel, in bytes. From outside, no TCP segment for a container is
    /// longer either: its MSS option has said so.
    mtu: u16,
    /// Packets that were added to the batch.
    packets: usize,
    /// Datagrams that are in trains and may yet become a packet each.
    promised: usize,
}

impl XdpUplink {
    /// Reads frames of a queue into at most `max` buffers of the batch. `drained` in the result
    /// says that the queue's ring is empty; a frame that arrives after that is signalled at its
    /// descriptor.
    ///
    /// # Errors
    /// The interface is gone: nothing will ever come again.
    pub fn receive(
        &self,
        queue: usize,
        batch: &mut Batch,
        max: usize,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> io::Result<Received> {
        let Some(queue) = self.queues.get(queue) else {
            return Ok(self.kernel.receive_for(&self.counters, batch, max, scratch, report));
        };
        let mut rx = queue.rx.lock();
        let (mut bytes, mut frames, mut errors) = (0, 0_u64, 0);
        let mut drained = false;
        let mut buffers = max.min(batch.free_buffers());
        let mut collector = Collector {
            batch,
            coalescer: &mut scratch.coalescer,
            report,
            trains: [None; OPEN],
            oldest: 0,
            mtu: self.mtu(),
            packets: 0,
            promised: 0,
        };
        while buffers > 0 && bytes < MAX_BATCH_BYTES && collector.has_room() {
            let packet = match rx.next() {
                Next::Packet(packet) => packet,
                Next::Endless => {
                    errors += 1;
                    collector.report.dropped(DropReason::Malformed, 1);
                    continue;
                }
                Next::Empty => {
                    drained = true;
                    break;
                }
            };
            frames += 1;
            let first = rx.bytes(packet.clone()).next().unwrap_or_default();
            let taken = outer::Received::parse(first, *self.local().ip(), self.local().port())
                .and_then(|from| collector.add(&rx, packet, &from, &mut buffers));
            match taken {
                Ok(len) => bytes += len as u64,
                Err(reason) => {
                    errors += 1;
                    collector.report.dropped(reason, 1);
                }
            }
        }
        rx.release();
        rx.wake();
        collector.close_all();
        if drained && (frames > FEW || rx.behind) {
            collector.count_lost(&mut rx);
        }
        rx.behind = !drained;
        if rx.poll(frames > 0) {
            drained = false;
        }
        let packets = collector.packets;
        self.counters.received(packets as u64 + errors, bytes, errors);
        drop(rx);
        if frames == 0
            && let Some(error) = self.look_for_end(queue)
        {
            return Err(error);
        }
        Ok(Received { packets, drained })
    }

    /// Whether the interface is gone, which the rings do not say: they stay empty. The kernel says
    /// so once at each socket, when it takes it off its queue (`xsk_notifier`), but does not wake who
    /// waits for the socket (`xsk_poll`); who follows neighbours is told as well.
    fn look_for_end(&self, queue: &Queue) -> Option<io::Error> {
        if queue.error().is_some() {
            self.neighbours.set_gone();
        }
        self.is_gone().then(|| io::Error::from_raw_os_error(libc::ENODEV))
    }
}

impl Collector<'_> {
    /// Whether one more datagram has a place, if each became a packet.
    fn has_room(&self) -> bool {
        self.promised < self.batch.room()
    }

    /// Copies a datagram into a train. Returns its length in bytes.
    fn add(
        &mut self,
        rx: &Receiver,
        packet: std::ops::Range<usize>,
        from: &outer::Received,
        buffers: &mut usize,
    ) -> Result<usize, DropReason> {
        let mut slot = self
            .trains
            .iter()
            .position(|train| train.as_ref().is_some_and(|train| train.from.is_like(from)));
        if let Some(at) = slot
            && self.trains[at].is_some_and(|train| !train.takes(from.len))
        {
            self.close(at);
            slot = None;
        }
        let at = match slot {
            Some(at) => at,
            None => self.open(from, buffers)?,
        };
        // What is larger than any cell sends is a super-packet, or a train already.
        let alone = from.len > self.largest(from);
        let Some(train) = &mut self.trains[at] else { return Err(DropReason::NoBuffer) };
        let place = Piece { at: train.buffer.at + train.used as u32, len: from.len as u32 };
        let mut rest = self.batch.bytes_mut(place);
        let mut skip = from.skip();
        for bytes in rx.bytes(packet) {
            let bytes = bytes.get(skip..).unwrap_or_default();
            skip = 0;
            // What is more than the headers say is padding.
            let len = bytes.len().min(rest.len());
            rest[..len].copy_from_slice(&bytes[..len]);
            rest = &mut rest[len..];
        }
        let whole = rest.is_empty();
        if !whole || !from.agrees(self.batch.bytes(place)) {
            if train.count == 0 {
                // Its buffer is the last that was taken.
                self.trains[at] = None;
                self.batch.untake_buffer();
                *buffers += 1;
            }
            return Err(DropReason::Malformed);
        }
        train.closed = from.len < train.stride || alone;
        train.used += from.len;
        train.count += 1;
        self.promised += 1;
        Ok(from.len)
    }

    /// Begins a train. Returns its place.
    fn open(&mut self, from: &outer::Received, buffers: &mut usize) -> Result<usize, DropReason> {
        let at = self.trains.iter().position(Option::is_none).unwrap_or_else(|| {
            let at = self.oldest;
            self.oldest = (at + 1) % OPEN;
            self.close(at);
            at
        });
        let buffer = self.batch.take_buffer().ok_or(DropReason::NoBuffer)?;
        *buffers -= 1;
        self.trains[at] =
            Some(Train { from: *from, buffer, used: 0, stride: from.len, count: 0, closed: false });
        Ok(at)
    }

    /// Makes packets of a train.
    fn close(&mut self, at: usize) {
        let Some(train) = self.trains[at].take() else { return };
        self.promised -= train.count;
        let bytes = Piece { len: train.used as u32, ..train.buffer };
        let stride = match train.count {
            1 if train.from.is_tunnel() => self.hidden_stride(bytes),
            1 => None,
            _ => Some(train.stride as u16),
        };
        let (mtu, via) = (self.mtu, train.via());
        self.packets += self.coalescer.receive(self.batch, bytes, stride, mtu, via, self.report);
    }

    /// Longest datagram that a cell sends, or segment that somebody sends to a container, in bytes.
    fn largest(&self, from: &outer::Received) -> usize {
        let tunnel = if from.is_tunnel() { TUNNEL_HEADER_LEN } else { 0 };
        tunnel + usize::from(self.mtu)
    }

    /// Length of the datagrams in what looks like one, but is a train of them that the kernel of
    /// a cell on this machine has sent (`UDP_SEGMENT`) and not cut, because it never came to a
    /// card.
    fn hidden_stride(&self, train: Piece) -> Option<u16> {
        let bytes = self.batch.bytes(train);
        let inner = bytes.get(TUNNEL_HEADER_LEN..TUNNEL_HEADER_LEN + IPV4_HEADER_LEN)?;
        let stride = TUNNEL_HEADER_LEN + usize::from(Ipv4Packet::new_unchecked(inner).total_len());
        let longer = bytes.len() > TUNNEL_HEADER_LEN + usize::from(self.mtu);
        // Flags and tag may differ, the network identifier does not.
        let begins_again = bytes.get(stride + 4..stride + 8) == bytes.get(4..8);
        (longer && begins_again && stride < bytes.len()).then_some(stride as u16)
    }

    /// Counts frames that the kernel threw away for want of room.
    fn count_lost(&mut self, rx: &mut Receiver) {
        match rx.take_lost() {
            Ok(0) => {}
            Ok(lost) => {
                self.report.dropped(DropReason::NoBuffer, u32::try_from(lost).unwrap_or(u32::MAX));
            }
            Err(error) => tracing::debug!("XDP_STATISTICS: {error}"),
        }
    }

    fn close_all(&mut self) {
        for at in 0..OPEN {
            self.close(at);
        }
    }
}
