//! Sending: super-packets and runs of equal packets as trains of segments.

use std::io::{self, IoSlice};
use std::iter;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sarcenet_dataplane_api::DropReason;

use super::{SENDERS, UdpTunnel};
use crate::link::segment::Segments;
use crate::link::sys::{self, MAX_SLICES};
use crate::link::{Report, Scratch, recycle};
use crate::packet::{Batch, Checksum, Packet, Piece, Verdict, Via};
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

/// Most datagrams of a train (`UDP_MAX_SEGMENTS` of the Linux kernel before 6.9).
const MAX_DATAGRAMS: usize = 64;

/// Most bytes of a train: the largest UDP payload.
const MAX_BYTES: usize = 65_535 - 20 - 8;

/// How long a full socket is waited for, in milliseconds. Its buffer empties at the speed of the
/// card; what is still full then is stuck.
const FULL_TIMEOUT_MS: u8 = 3;

impl UdpTunnel {
    /// Which of the sending sockets carries a flow; packets with the same destination and the
    /// same number go out in one train.
    pub fn sender_of(flow_hash: u32) -> usize {
        (flow_hash ^ (flow_hash >> 16)) as usize % SENDERS
    }

    /// Sends packets of the batch whose verdict is the tunnel, each beginning with its tunnel
    /// header, in the given order. What fails is reported; returns how many were sent.
    pub fn transmit(
        &self,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        let mut indices = indices.into_iter().peekable();
        let mut sent = 0;
        // Never ahead of packets before them: segments of one flow may go either way.
        while let Some(&first) = indices.peek() {
            sent += if let Some(tap) = self.tap_for(batch, first) {
                self.transmit_whole(tap, batch, &mut indices, scratch, report)
            } else {
                let run = iter::from_fn(|| {
                    indices.next_if(|&index| self.tap_for(batch, index).is_none())
                });
                self.transmit_trains(batch, run, scratch, report)
            };
        }
        sent
    }

    /// Sends packets as trains of segments.
    pub(super) fn transmit_trains(
        &self,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        let Scratch { headers, slices: spare, outcomes, .. } = scratch;
        outcomes.clear();
        let mut bytes = 0;
        let mut feed = Feed::new(batch, indices.into_iter());
        while let Some(first) = feed.next(outcomes) {
            let mut slices = recycle(std::mem::take(spare));
            let mut room = &mut headers[..];
            let mut train = Train::new(first);
            let mut next = Some(first);
            while let Some(datagram) = next
                && train.takes(datagram, slices.len(), room.len(), self.gso.load(Relaxed))
            {
                let (header, rest) = std::mem::take(&mut room).split_at_mut(datagram.header_len);
                room = rest;
                feed.emit(header, &mut slices);
                train.add(datagram, slices.len());
                next = feed.next(outcomes);
            }
            bytes += self.send(&train, &slices, outcomes) as u64;
            *spare = recycle(slices);
        }
        let (mut packets, mut errors) = (0, 0);
        for outcome in outcomes {
            match *outcome {
                None => packets += 1,
                Some(reason) => {
                    errors += u64::from(reason == DropReason::LinkError);
                    report.dropped(reason, 1);
                }
            }
        }
        self.counters.transmitted(packets, bytes, errors);
        packets as usize
    }

    /// Sends a train; datagram by datagram when the kernel or the device does not take it whole.
    /// Sets the outcome of packets that fail. Returns how many bytes were sent.
    fn send(
        &self,
        train: &Train,
        slices: &[IoSlice<'_>],
        outcomes: &mut [Option<DropReason>],
    ) -> usize {
        let segment = (train.count > 1).then_some(train.size as u16);
        let refused = match self.send_message(train, slices, segment) {
            Ok(()) => return train.bytes,
            Err(refused) => refused,
        };
        let divisible =
            [Errno::EINVAL, Errno::EIO, Errno::EOPNOTSUPP, Errno::EMSGSIZE].contains(&refused);
        if segment.is_none() || !divisible {
            for &entry in &train.entries[..train.count] {
                outcomes[usize::from(entry)].get_or_insert(failure(refused));
            }
            return 0;
        }
        let (mut sent, mut start) = (0, 0);
        let mut too_large = usize::MAX;
        for number in 0..train.count {
            let (end, len) = (usize::from(train.ends[number]), train.len(number));
            let datagram = &slices[start..end];
            start = end;
            let result = if len < too_large {
                self.send_message(train, datagram, None)
            } else {
                Err(Errno::EMSGSIZE)
            };
            match result {
                Ok(()) => sent += len,
                Err(errno) => {
                    if errno == Errno::EMSGSIZE {
                        too_large = len;
                    }
                    outcomes[usize::from(train.entries[number])].get_or_insert(failure(errno));
                }
            }
        }
        if sent == train.bytes {
            // Each by itself is fine, so it was the train that was refused.
            self.gso.store(false, Relaxed);
        }
        sent
    }

    fn send_message(
        &self,
        train: &Train,
        slices: &[IoSlice<'_>],
        segment: Option<u16>,
    ) -> Result<(), Errno> {
        let socket = self.senders[train.sender].as_fd();
        let destination = SocketAddrV4::new(train.peer, self.local.port());
        let mut again = true;
        loop {
            let Err(error) = sys::send(socket, destination, slices, segment) else { return Ok(()) };
            match errno(&error) {
                Errno::EINTR => continue,
                Errno::EAGAIN if again => {
                    let mut writable = [PollFd::new(socket, PollFlags::POLLOUT)];
                    poll(&mut writable, PollTimeout::from(FULL_TIMEOUT_MS))?;
                }
                // About an earlier packet (an ICMP error): this one was not even tried.
                Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH if again => {}
                errno => return Err(errno),
            }
            again = false;
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

pub(super) fn failure(errno: Errno) -> DropReason {
    match errno {
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => DropReason::LinkFull,
        _ => DropReason::LinkError,
    }
}

/// One datagram that is to be sent, before it is made.
#[derive(Clone, Copy)]
struct Datagram {
    /// Place of its packet among those to be sent.
    entry: usize,
    peer: Ipv4Addr,
    sender: usize,
    /// Bytes in all.
    len: usize,
    /// Bytes that are written anew.
    header_len: usize,
    /// Upper bound of its slices.
    slices: usize,
    /// Whether it is the first of its packet.
    first: bool,
    /// Datagrams of its packet from this one on, and their bytes.
    rest: (usize, usize),
}

/// Datagrams that go out in one call: to one peer from one socket, all of one size but the last.
struct Train {
    peer: Ipv4Addr,
    sender: usize,
    size: usize,
    count: usize,
    bytes: usize,
    /// Whether a shorter datagram has ended it.
    closed: bool,
    /// The packet that each datagram belongs to.
    entries: [u16; MAX_DATAGRAMS],
    /// Where each datagram ends among the slices.
    ends: [u16; MAX_DATAGRAMS],
}

impl Train {
    fn new(first: Datagram) -> Self {
        Self {
            peer: first.peer,
            sender: first.sender,
            size: first.len,
            count: 0,
            bytes: 0,
            closed: false,
            entries: [0; MAX_DATAGRAMS],
            ends: [0; MAX_DATAGRAMS],
        }
    }

    /// Whether one more datagram may join, given how full the train is. A super-packet joins
    /// whole or not at all: the receiver gets train by train, and puts no two of them together.
    fn takes(&self, next: Datagram, slices: usize, room: usize, gso: bool) -> bool {
        let (more, bytes) = if next.first { next.rest } else { (1, next.len) };
        self.count == 0
            || (gso
                && !self.closed
                && (next.peer, next.sender) == (self.peer, self.sender)
                && next.len <= self.size
                && self.count + more <= MAX_DATAGRAMS
                && self.bytes + bytes <= MAX_BYTES
                && slices + next.slices <= MAX_SLICES
                && next.header_len <= room)
    }

    /// Length of one of its datagrams, in bytes.
    fn len(&self, number: usize) -> usize {
        self.size.min(self.bytes - self.size * number)
    }

    fn add(&mut self, datagram: Datagram, slices: usize) {
        self.entries[self.count] = datagram.entry as u16;
        self.ends[self.count] = slices as u16;
        self.count += 1;
        self.bytes += datagram.len;
        self.closed = datagram.len < self.size;
    }
}

/// What is to be sent, datagram by datagram.
struct Feed<'a, I> {
    batch: &'a Batch,
    indices: I,
    /// The packet that is being sent.
    current: Option<Current<'a>>,
}

struct Current<'a> {
    entry: usize,
    peer: Ipv4Addr,
    sender: usize,
    form: Form<'a>,
}

enum Form<'a> {
    /// Goes out as it lies there.
    Whole { head: &'a [u8], tail: &'a [Piece], len: usize },
    /// Is cut, or gets its checksum.
    Segments(Segments<'a>),
    /// Was sent.
    Done,
}

impl<'a, I: Iterator<Item = u16>> Feed<'a, I> {
    fn new(batch: &'a Batch, indices: I) -> Self {
        Self { batch, indices, current: None }
    }

    /// The next datagram. A packet that cannot be sent has its outcome set and is passed over.
    fn next(&mut self, outcomes: &mut Vec<Option<DropReason>>) -> Option<Datagram> {
        loop {
            if let Some(current) = &self.current
                && let Some(datagram) = current.datagram()
            {
                return Some(datagram);
            }
            let packet = self.batch.packet(usize::from(self.indices.next()?));
            let entry = outcomes.len();
            self.current = Current::new(self.batch, packet, entry);
            outcomes.push(self.current.is_none().then_some(DropReason::LinkError));
        }
    }

    /// Makes the datagram that [`Feed::next`] announced.
    fn emit<'s>(&mut self, header: &'s mut [u8], slices: &mut Vec<IoSlice<'s>>)
    where
        'a: 's,
    {
        let Some(current) = &mut self.current else { return };
        match &mut current.form {
            Form::Done => {}
            Form::Whole { head, tail, .. } => {
                slices.push(IoSlice::new(head));
                slices.extend(tail.iter().map(|&piece| IoSlice::new(self.batch.bytes(piece))));
                current.form = Form::Done;
            }
            Form::Segments(segments) => {
                // Headers come first, but are finished last.
                let at = slices.len();
                slices.push(IoSlice::new(&[]));
                segments.next(header, |slice| slices.push(IoSlice::new(slice)));
                slices[at] = IoSlice::new(header);
            }
        }
    }
}

impl<'a> Current<'a> {
    fn new(batch: &'a Batch, packet: &'a Packet, entry: usize) -> Option<Self> {
        let Verdict::Forward(Via::Tunnel(peer)) = packet.verdict else { return None };
        let offload = packet.offload;
        let as_it_is = offload.segmentation.size().is_none()
            && !matches!(offload.checksum, Checksum::Partial { .. });
        let form = if as_it_is {
            let (head, tail) = (batch.bytes(packet.head), batch.tail(packet));
            Form::Whole { head, tail, len: packet.len() }
        } else {
            Form::Segments(Segments::new(batch, packet, TUNNEL_HEADER_LEN).ok()?)
        };
        Some(Self { entry, peer, sender: UdpTunnel::sender_of(packet.flow_hash), form })
    }

    fn datagram(&self) -> Option<Datagram> {
        let (len, header_len, slices, first, rest) = match &self.form {
            Form::Done => return None,
            Form::Whole { tail, len, .. } => (*len, 0, 1 + tail.len(), true, (1, *len)),
            Form::Segments(segments) => (
                segments.next_len()?,
                segments.header_len(),
                1 + segments.max_slices(),
                segments.is_untouched(),
                segments.rest(),
            ),
        };
        Some(Datagram {
            entry: self.entry,
            peer: self.peer,
            sender: self.sender,
            len,
            header_len,
            slices,
            first,
            rest,
        })
    }
}
