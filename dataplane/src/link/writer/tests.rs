//! The writing half on descriptors of other kinds, which fail as devices do, but when they are
//! told to: a pair of sockets keeps every write apart and is full when nobody reads.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::SndBuf,
};
use nix::unistd::read;

use super::*;
use crate::link::ring::{DEPTH, WriteRing};
use crate::link::testing::{CELL, assert_right, make_super, place, tcp_packet, udp_packet};

const ALL: Features = Features { csum: true, tso: true, uso: true };

/// Where a writer writes to, and what came of it.
struct Bench {
    writer: Writer,
    near: OwnedFd,
    far: OwnedFd,
    scratch: Scratch,
    report: Report,
    counters: LinkCounters,
}

impl Bench {
    fn new(ring: bool, kind: SockType) -> Self {
        let (near, far) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_NONBLOCK).unwrap();
        let mut scratch = Scratch::new();
        if ring {
            scratch.open_ring().unwrap();
        }
        let writer = Writer::ip(ALL);
        let (report, counters) = (Report::new(), LinkCounters::default());
        Self { writer, near, far, scratch, report, counters }
    }

    fn transmit(&mut self, batch: &Batch) -> usize {
        let Self { writer, near, scratch, report, counters, .. } = self;
        let all = 0..batch.len() as u16;
        writer.transmit(near.as_fd(), batch, all, scratch, report, counters)
    }

    /// What was written, behind its `virtio_net_hdr`.
    fn written(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        std::iter::from_fn(|| {
            let len = read(&self.far, &mut buffer).ok()?;
            Some(buffer[HEADER_LEN..len].to_vec())
        })
        .collect()
    }
}

/// Packets that tell themselves apart.
fn packets(count: usize) -> (Batch, Vec<Vec<u8>>) {
    let mut batch = Batch::new();
    let packets: Vec<_> = (0..count).map(|n| udp_packet(&[n as u8; 40])).collect();
    for packet in &packets {
        let head = place(&mut batch, packet);
        batch.push(head, Offload::default(), CELL).unwrap();
    }
    (batch, packets)
}

/// More packets than the ring has places, and none of them lost, doubled or moved.
#[test]
fn more_packets_than_one_call_takes_are_written_in_order() {
    for ring in [false, true] {
        // Of this kind, as many fit as its buffer holds.
        let mut bench = Bench::new(ring, SockType::SeqPacket);
        let (batch, packets) = packets(3 * DEPTH + 5);
        assert_eq!(bench.transmit(&batch), packets.len());
        assert!(bench.written() == packets, "ring: {ring}");
        assert_eq!(bench.counters.tx().0 as usize, packets.len());
        bench.report.take(|reason, n| panic!("{n} dropped: {reason}"));
    }
}

/// A device that stays full costs the packets that do not fit, each counted, and no others.
#[test]
fn a_full_device_is_counted_and_is_no_error() {
    for ring in [false, true] {
        let mut bench = Bench::new(ring, SockType::Datagram);
        setsockopt(&bench.near, SndBuf, &16_384).unwrap();
        let (batch, packets) = packets(100);
        let sent = bench.transmit(&batch);
        assert!(sent > 0 && sent < 100, "{sent} of 100 datagrams wait in a socket");
        assert_eq!(bench.report.count(DropReason::LinkFull) as usize, 100 - sent);
        // A storm: again and again, with nobody reading.
        for _ in 0..20 {
            assert_eq!(bench.transmit(&batch), 0);
        }
        assert_eq!(bench.report.count(DropReason::LinkFull) as usize, 2100 - sent);
        assert_eq!((bench.counters.tx().0 as usize, bench.counters.errors()), (sent, 0));
        assert!(!bench.writer.is_gone());
        assert!(bench.written() == packets[..sent]);
        // And it is as good as new.
        assert_eq!(bench.transmit(&batch), sent);
    }
}

/// One write fails; those before and behind it do not, and nothing is written twice.
#[test]
fn an_error_in_the_middle_costs_one_packet() {
    for ring in [false, true] {
        let mut bench = Bench::new(ring, SockType::Datagram);
        // What is larger than the socket's buffer is EMSGSIZE at once.
        setsockopt(&bench.near, SndBuf, &16_384).unwrap();
        let mut batch = Batch::new();
        let mut packets: Vec<_> = (0..7).map(|n| udp_packet(&[n; 40])).collect();
        packets[3] = udp_packet(&vec![3; 60_000]);
        for packet in &packets {
            let head = place(&mut batch, packet);
            batch.push(head, Offload::default(), CELL).unwrap();
        }
        assert_eq!(bench.transmit(&batch), 6);
        packets.remove(3);
        assert!(bench.written() == packets, "ring: {ring}");
        assert_eq!(bench.report.count(DropReason::LinkError), 1);
        assert_eq!((bench.counters.tx().0, bench.counters.errors()), (6, 1));
    }
}

/// A ring that the kernel refuses to run is given up, and what it should have written is written.
#[test]
fn a_ring_that_fails_is_given_up() {
    let mut bench = Bench::new(false, SockType::SeqPacket);
    bench.scratch.ring = Some(WriteRing::disabled().unwrap());
    let (batch, packets) = packets(5);
    assert_eq!(bench.transmit(&batch), 5);
    assert!(bench.scratch.ring.is_none());
    assert!(bench.written() == packets);
    assert_eq!(bench.transmit(&batch), 5);
    bench.report.take(|reason, n| panic!("{n} dropped: {reason}"));
}

/// What a device says when it is gone is remembered; what it says when it is down is not.
#[test]
fn errors_by_what_they_mean() {
    for (errno, reason, gone) in [
        (Errno::EAGAIN, DropReason::LinkFull, false),
        (Errno::ENOBUFS, DropReason::LinkFull, false),
        (Errno::ENOMEM, DropReason::LinkFull, false),
        (Errno::ENETDOWN, DropReason::LinkGone, false),
        (Errno::EIO, DropReason::LinkError, false),
        (Errno::EMSGSIZE, DropReason::LinkError, false),
        (Errno::EINVAL, DropReason::LinkError, false),
        (Errno::EBADFD, DropReason::LinkGone, true),
        (Errno::ENODEV, DropReason::LinkGone, true),
        (Errno::ENXIO, DropReason::LinkGone, true),
    ] {
        let writer = Writer::ip(ALL);
        assert_eq!((writer.failure(errno), writer.is_gone()), (reason, gone), "{errno}");
    }
}

/// A device that answers EINVAL to a super-packet gets its segments, then and from then on.
#[test]
fn a_refused_kind_of_super_packet_is_cut_from_then_on() {
    let mut tcp = tcp_packet(&[1; 5000], 1);
    let mut udp = udp_packet(&[2; 5000]);
    let offloads = [make_super(&mut tcp, 1000), make_super(&mut udp, 1000)];
    for ring in [false, true] {
        // What cannot be written at all answers EINVAL to every write, segments too.
        let device = Epoll::new(EpollCreateFlags::empty()).unwrap().0;
        let mut bench = Bench::new(ring, SockType::SeqPacket);
        let mut batch = Batch::new();
        for (packet, offload) in [&tcp, &udp].into_iter().zip(offloads) {
            let head = place(&mut batch, packet);
            batch.push(head, offload, CELL).unwrap();
        }
        let Bench { writer, scratch, report, counters, .. } = &mut bench;
        let sent = writer.transmit(device.as_fd(), &batch, 0..2, scratch, report, counters);
        assert_eq!((sent, report.count(DropReason::LinkError), counters.errors()), (0, 2, 2));
        assert_eq!(writer.features(), Features { csum: true, tso: false, uso: false });
        // A device that takes segments.
        assert_eq!(bench.transmit(&batch), 2);
        let segments = bench.written();
        assert_eq!(segments.len(), 10);
        for segment in &segments {
            assert_right(segment);
        }
    }
}
