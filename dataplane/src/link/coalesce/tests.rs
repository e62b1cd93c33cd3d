use super::*;
use crate::link::segment::Segments;
use crate::link::testing::{
    CELL, TCP_LEN, assert_right, fill_checksum, make_partial, make_super, place, push_cut,
    tcp_packet, udp_packet,
};
use crate::wire::tunnel::TunnelTemplate;
use proptest::prelude::*;

const MTU: u16 = 1450;
const IP: usize = TUNNEL_HEADER_LEN;
const TRANSPORT: usize = IP + IPV4_HEADER_LEN;

fn tunnel(packet: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; TUNNEL_HEADER_LEN];
    TunnelTemplate::new(1, [2; 6], [4; 6]).write(7, &mut datagram);
    datagram.extend_from_slice(packet);
    datagram
}

/// Receives datagrams of equal length as one train. Returns what became of them.
fn receive(datagrams: &[Vec<u8>]) -> (Batch, Report) {
    let stride = datagrams.first().map_or(0, Vec::len) as u16;
    receive_bytes(&datagrams.concat(), Some(stride))
}

fn receive_bytes(bytes: &[u8], stride: Option<u16>) -> (Batch, Report) {
    let (mut batch, mut report) = (Batch::new(), Report::new());
    let train = place(&mut batch, bytes);
    let made = Coalescer::default().receive(&mut batch, train, stride, MTU, CELL, &mut report);
    assert_eq!(made, batch.len());
    (batch, report)
}

/// What is not the tunnel's is put together the same way, without a tunnel header.
#[test]
fn packets_of_the_host() {
    let payload: Vec<u8> = (0..40_u32 * 1448).map(|n| (n >> 4) as u8).collect();
    let segments: Vec<_> =
        (0..).zip(payload.chunks(1448)).map(|(n, part)| tcp_packet(part, 1 + n * 1448)).collect();
    let (mut batch, mut report) = (Batch::new(), Report::new());
    let train = place(&mut batch, &segments.concat());
    let stride = Some(segments[0].len() as u16);
    let made =
        Coalescer::default().receive(&mut batch, train, stride, 1500, Via::Host, &mut report);
    assert_eq!(made, 1);
    let mut whole = tcp_packet(&payload, 1);
    let offload = make_super(&mut whole, 1448);
    assert_eq!((batch.packet(0).from, batch.packet(0).offload), (Via::Host, offload));
    assert!(batch.copy_out(0) == whole, "not what was sent");

    // A super-packet that nobody has cut: by the MTU.
    let mut batch = Batch::new();
    let train = place(&mut batch, &whole);
    let made = Coalescer::default().receive(&mut batch, train, None, 1500, Via::Host, &mut report);
    assert_eq!((made, batch.packet(0).offload), (1, offload));
    report.take(|reason, n| panic!("{n} dropped: {reason}"));
}

/// Segments of one TCP stream, `size` bytes each.
fn stream(count: usize, size: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| tunnel(&tcp_packet(&vec![i as u8; size], 1000 + (i * size) as u32)))
        .collect()
}

/// Changes the packet in a datagram and makes its checksums right again.
fn change(datagram: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let packet = &mut datagram[IP..];
    change(packet);
    Ipv4Packet::new_unchecked(&mut *packet).fill_checksum();
    fill_checksum(packet);
}

#[test]
fn a_train_becomes_one_super_packet() {
    let (batch, _) = receive(&stream(40, 1398));
    assert_eq!(batch.len(), 1);
    let packet = batch.packet(0);
    assert_eq!(packet.from, CELL);
    assert_eq!(packet.offload.segmentation, Segmentation::Tcp { size: 1398 });
    assert_eq!(packet.offload.checksum, Checksum::Partial { start: 20, offset: 16 });
    assert_eq!(packet.len(), IP + 20 + TCP_LEN + 40 * 1398);
    assert_eq!(batch.tail(packet).len(), 39, "the first payload stays in the head");
}

proptest! {
    /// What was cut comes together again as it was, byte by byte.
    #[test]
    fn undoes_segmentation(
        payload in prop::collection::vec(any::<u8>(), 2..30_000),
        parts in 2_usize..60,
        tcp: bool,
        dont_fragment: bool,
    ) {
        let size = payload.len().div_ceil(parts).min(1300) as u16;
        prop_assume!(payload.len() > usize::from(size) && payload.len() / usize::from(size) < 64);
        let mut packet = if tcp { tcp_packet(&payload, 0xffff_ff00) } else { udp_packet(&payload) };
        if tcp {
            packet[33] |= PSH | FIN | ECE;
        }
        let mut ip = Ipv4Packet::new_unchecked(&mut packet);
        ip.set_dont_frag(dont_fragment);
        ip.fill_checksum();
        let offload = make_super(&mut packet, size);
        let whole = tunnel(&packet);
        let mut sent = Batch::new();
        let index = push_cut(&mut sent, &whole, &[], offload);
        let mut segments = Segments::new(&sent, sent.packet(index), TUNNEL_HEADER_LEN).unwrap();
        let mut datagrams = Vec::new();
        while segments.next_len().is_some() {
            let mut datagram = vec![0; segments.header_len()];
            let mut payload = Vec::new();
            segments.next(&mut datagram, |slice| payload.extend_from_slice(slice));
            datagram.extend(payload);
            datagrams.push(datagram);
        }
        let (batch, _) = receive(&datagrams);
        prop_assert_eq!(batch.len(), 1);
        prop_assert_eq!(batch.packet(0).offload, offload);
        prop_assert_eq!(batch.copy_out(0), whole);
    }

    #[test]
    fn any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
        stride in prop::option::of(any::<u16>()),
    ) {
        let (batch, report) = receive_bytes(&bytes, stride);
        let received: usize = batch.packets().iter().map(crate::packet::Packet::len).sum();
        prop_assert!(received <= bytes.len());
        prop_assert!(bytes.is_empty() || !batch.is_empty() || report.count(DropReason::BadOffload) > 0);
    }

    /// Almost right trains: one byte of one datagram is another. Whatever comes of it, every
    /// packet that is called verified is right, and no payload byte moves between packets.
    #[test]
    fn one_wrong_byte(at in 0_usize..8 * 142, value: u8) {
        let mut bytes = stream(8, 68).concat();
        prop_assume!(bytes.len() == 8 * 142);
        bytes[at] = value;
        let (batch, _) = receive_bytes(&bytes, Some(142));
        for index in 0..batch.len() {
            let packet = batch.packet(index);
            if packet.offload.checksum == Checksum::Verified {
                assert_right(&batch.copy_out(index)[IP..]);
            }
            if packet.offload.segmentation.size().is_some() {
                let mut segments =
                    Segments::new(&batch, packet, TUNNEL_HEADER_LEN).unwrap();
                let mut header = vec![0; segments.header_len()];
                while segments.next_len().is_some() {
                    segments.next(&mut header, |slice| assert_eq!(slice.len(), 68));
                }
            }
        }
    }
}

#[test]
fn what_differs_is_not_merged() {
    type Change = fn(&mut [u8]);
    let changes: [(&str, Change); 15] = [
        ("source address", |p| p[15] ^= 1),
        ("destination address", |p| p[19] ^= 1),
        ("TTL", |p| p[8] -= 1),
        ("TOS", |p| p[1] = 0x10),
        ("DF", |p| p[6] = 0),
        ("source port", |p| p[21] ^= 1),
        ("destination port", |p| p[23] ^= 1),
        ("sequence number", |p| p[27] ^= 1),
        ("acknowledgment", |p| p[31] ^= 1),
        ("window", |p| p[35] ^= 1),
        ("timestamp", |p| p[47] ^= 1),
        ("SYN", |p| p[33] |= 2),
        ("RST", |p| p[33] |= 4),
        ("URG", |p| p[33] |= 0x20),
        ("CWR", |p| p[33] |= 0x80),
    ];
    for (what, edit) in changes {
        let mut datagrams = stream(2, 100);
        let datagram = &mut datagrams[1];
        edit(&mut datagram[IP..]);
        let packet = &mut datagram[IP..];
        Ipv4Packet::new_unchecked(&mut *packet).fill_checksum();
        let check = {
            packet[36..38].fill(0);
            pseudo_header_of(packet, packet.len() as u32 - 20).add(&packet[20..]).checksum()
        };
        packet[36..38].copy_from_slice(&check.to_be_bytes());
        let (batch, _) = receive(&datagrams);
        assert_eq!(batch.len(), 2, "{what}");
    }
    let mut group = stream(2, 100);
    group[1][3] ^= 1;
    assert_eq!(receive(&group).0.len(), 2, "group tag");
    let mut more = stream(2, 100);
    more[1][IP + 6] |= 0x20;
    assert_eq!(receive(&more).0.len(), 2, "fragment");
    let mut wrong = stream(2, 100);
    wrong[1][IP + 80] ^= 1;
    assert_eq!(receive(&wrong).0.len(), 2, "wrong checksum");
}

#[test]
fn identifications_must_count_up_where_they_mean_something() {
    let with_idents = |idents: [u16; 3]| {
        let mut datagrams = stream(3, 100);
        for (datagram, ident) in datagrams.iter_mut().zip(idents) {
            change(datagram, |packet| {
                let mut ip = Ipv4Packet::new_unchecked(packet);
                ip.set_dont_frag(false);
                ip.set_ident(ident);
            });
        }
        receive(&datagrams).0.len()
    };
    assert_eq!(with_idents([0xffff, 0, 1]), 1);
    assert_eq!(with_idents([5, 5, 5]), 3);
    assert_eq!(with_idents([5, 6, 8]), 2);
}

#[test]
fn a_push_or_a_shorter_segment_ends_a_super_packet() {
    let mut datagrams = stream(5, 100);
    change(&mut datagrams[2], |packet| packet[33] |= PSH);
    let (batch, _) = receive(&datagrams);
    assert_eq!(batch.len(), 2);
    assert_ne!(batch.head(0)[TRANSPORT + 13] & PSH, 0);
    assert_eq!(batch.head(1)[TRANSPORT + 13] & PSH, 0);

    let mut datagrams = stream(3, 100);
    datagrams.push(tunnel(&tcp_packet(&[9; 40], 1300)));
    let (batch, _) = receive(&datagrams);
    assert_eq!(batch.len(), 1);
    assert_eq!(batch.packet(0).len(), IP + 20 + TCP_LEN + 340);
}

#[test]
fn packets_without_payload_stay_alone() {
    let (batch, _) = receive(&stream(3, 0));
    assert_eq!(batch.len(), 3);
    assert!(batch.packets().iter().all(|packet| packet.offload == Offload::default()));
}

#[test]
fn datagrams_without_checksum_stay_alone() {
    let datagrams: Vec<_> = (0..3)
        .map(|i| {
            let mut packet = udp_packet(&[i; 100]);
            packet[26..28].fill(0);
            tunnel(&packet)
        })
        .collect();
    assert_eq!(receive(&datagrams).0.len(), 3);
}

#[test]
fn udp_super_packets_have_at_most_64_datagrams() {
    let datagrams: Vec<_> = (0..100).map(|i| tunnel(&udp_packet(&[i; 18]))).collect();
    let (batch, _) = receive(&datagrams);
    let segments: Vec<_> =
        batch.packets().iter().map(|packet| batch.tail(packet).len() + 1).collect();
    assert_eq!(segments, [64, 36]);
}

/// A veth without tunnel offloads cuts the super-packet of a kernel cell, but leaves the inner
/// checksum to a device that never comes.
#[test]
fn partial_checksums_of_a_local_sender_are_recognised() {
    let mut datagrams = stream(3, 1398);
    for datagram in &mut datagrams {
        make_partial(&mut datagram[IP..]);
    }
    let (batch, _) = receive(&datagrams);
    assert_eq!(batch.len(), 1);
    assert_eq!(batch.packet(0).offload.segmentation, Segmentation::Tcp { size: 1398 });
    let (single, _) = receive(&datagrams[..1]);
    let checksum = Checksum::Partial { start: 20, offset: 16 };
    assert_eq!(single.packet(0).offload, Offload { checksum, segmentation: Segmentation::None });
}

/// A kernel cell on the same machine: its super-packet arrives as one large datagram.
#[test]
fn a_kernel_super_packet_arrives_whole() {
    let mut partial = tcp_packet(&vec![3; 30_000], 1);
    let checksum = make_partial(&mut partial);
    let segmentation = Segmentation::Tcp { size: MTU - 20 - TCP_LEN as u16 };
    let expected = Offload { checksum, segmentation };
    let datagram = tunnel(&partial);
    let (batch, _) = receive_bytes(&datagram, None);
    assert_eq!(batch.packet(0).offload, expected);
    assert_eq!(batch.copy_out(0), datagram);

    let complete = tunnel(&tcp_packet(&vec![3; 30_000], 1));
    let (batch, _) = receive_bytes(&complete, None);
    assert_eq!(batch.packet(0).offload, expected);
    assert_eq!(batch.copy_out(0), datagram, "its checksum is partial now, as super-packets' are");

    let mut wrong = complete;
    wrong[100] ^= 1;
    let (batch, report) = receive_bytes(&wrong, None);
    assert_eq!((batch.len(), report.count(DropReason::BadOffload)), (0, 1));
}

#[test]
fn a_kernel_udp_super_packet_comes_with_its_size() {
    let mut packet = udp_packet(&vec![3; 12_000]);
    let checksum = make_partial(&mut packet);
    let (batch, _) = receive_bytes(&tunnel(&packet), Some(1200));
    let segmentation = Segmentation::Udp { size: 1200 };
    assert_eq!(batch.packet(0).offload, Offload { checksum, segmentation });
    // Without one it is a datagram that is too large.
    let (batch, _) = receive_bytes(&tunnel(&packet), None);
    assert_eq!(batch.packet(0).offload.segmentation, Segmentation::None);
}

#[test]
fn a_full_batch_is_counted() {
    let (mut batch, mut report) = (Batch::new(), Report::new());
    while batch.room() > 1 {
        batch.push(Piece::default(), Offload::default(), CELL);
    }
    let train = place(&mut batch, &stream(3, 0).concat());
    let stride = Some(IP as u16 + 20 + TCP_LEN as u16);
    Coalescer::default().receive(&mut batch, train, stride, MTU, CELL, &mut report);
    assert_eq!((batch.room(), report.count(DropReason::NoBuffer)), (0, 2));
}
