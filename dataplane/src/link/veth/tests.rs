//! Real veth pairs, each test in network namespaces of its own. Needs root, and `ip`.

use std::time::Instant;

use nix::net::if_::if_nametoindex;
use nix::unistd::{read, write};
use sarcenet_dataplane_api::PortId;

use super::*;
use crate::link::testing::{assert_right, make_super, place, tcp_packet, udp_packet};
use crate::link::tests::PATIENCE;
use crate::link::tests::support::namespace::Namespace;
use crate::packet::{Checksum, Offload, Segmentation};

const MACS: Macs =
    Macs { container: [0xee, 0xee, 10, 255, 55, 2], gateway: [0xaa, 0xaa, 10, 255, 55, 2] };
const VIA: Via = Via::Container(PortId(2));

/// A link to a container, and a packet socket in that container.
struct Pair {
    link: VethLink,
    inside: PacketSocket,
    cell: Namespace,
    // They go last.
    _container: Namespace,
}

impl Pair {
    fn new() -> Self {
        let (cell, container) = (Namespace::new(), Namespace::new());
        for namespace in [&cell, &container] {
            namespace.run(|| {
                std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            });
        }
        cell.ip(&format!(
            "link add host address aa:aa:0a:ff:37:02 type veth peer name eth0 address \
             ee:ee:0a:ff:37:02 netns {}",
            container.id
        ));
        cell.ip("link set host up");
        container.ip("link set eth0 up");
        cell.wait_for_carrier("host");
        let open = |namespace: &Namespace, name: &'static str| {
            namespace.run(move || PacketSocket::open(if_nametoindex(name).unwrap()).unwrap())
        };
        let inside = open(&container, "eth0");
        let fd = open(&cell, "host").into_fd();
        let link = VethLink::new(fd, MACS, 1450, VIA, Arc::default()).unwrap();
        Self { link, inside, cell, _container: container }
    }

    /// Sends a frame from the container.
    fn send(&self, vnet: [u8; HEADER_LEN], frame: &[u8]) -> nix::Result<()> {
        write(&self.inside, &[&vnet[..], frame].concat()).map(drop)
    }

    /// A frame that arrives in the container, behind its `virtio_net_hdr`.
    fn arrives(&self) -> ([u8; HEADER_LEN], Vec<u8>) {
        let mut buffer = vec![0; 70_000];
        let deadline = Instant::now() + PATIENCE;
        loop {
            match read(&self.inside, &mut buffer) {
                Ok(len) => {
                    return (
                        buffer[..HEADER_LEN].try_into().unwrap(),
                        buffer[HEADER_LEN..len].into(),
                    );
                }
                Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::yield_now(),
                Err(errno) => panic!("nothing arrives in the container: {errno}"),
            }
        }
    }

    /// Receives until `enough`.
    fn receive(
        &self,
        batch: &mut Batch,
        report: &mut Report,
        enough: impl Fn(&Batch, &Report) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(batch, report) {
            self.link.receive(batch, 64, report).unwrap();
            assert!(Instant::now() < deadline, "not all frames came: {report:?}");
        }
    }
}

fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

fn honest(payload: &[u8]) -> Vec<u8> {
    frame(MACS.gateway, MACS.container, 0x0800, payload)
}

#[test]
fn packets_lose_their_ethernet_header_and_get_one() {
    let pair = Pair::new();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    let udp = udp_packet(&[7; 100]);
    let mut tcp = tcp_packet(&[9; 5000], 1);
    let offload = make_super(&mut tcp, 1000);
    pair.send([0; HEADER_LEN], &honest(&udp)).unwrap();
    let vnet = virtio::encode(offload, &tcp, ETHERNET_HEADER_LEN);
    pair.send(vnet, &honest(&tcp)).unwrap();
    pair.receive(&mut batch, &mut report, |batch, _| batch.len() == 2);
    assert_eq!((batch.head(0), batch.packet(0).from), (&udp[..], VIA));
    assert_right(batch.head(0));
    // A super-packet stays whole, its checksum partial.
    assert_eq!((batch.head(1), batch.packet(1).offload), (&tcp[..], offload));

    let sent = pair.link.transmit(&batch, [0, 1], &mut scratch, &mut report);
    assert_eq!(sent, 2);
    for (expected, offload) in [(&udp, batch.packet(0).offload), (&tcp, offload)] {
        let (vnet, got) = pair.arrives();
        assert_eq!(got, frame(MACS.container, MACS.gateway, 0x0800, expected));
        let got = virtio::decode(vnet, expected, ETHERNET_HEADER_LEN).unwrap();
        assert_eq!(got.segmentation, offload.segmentation);
        assert_eq!(
            matches!(got.checksum, Checksum::Partial { .. }),
            matches!(offload.segmentation, Segmentation::Tcp { .. })
        );
    }
    assert_eq!(pair.link.mode(), "veth vnet-hdr csum tso uso");
    assert_eq!((pair.link.counters().rx().0, pair.link.counters().tx().0), (2, 2));
}

#[test]
fn hostile_frames_are_counted_each_for_its_reason() {
    let pair = Pair::new();
    let packet = udp_packet(&[7; 100]);
    let Macs { container, gateway } = MACS;
    let other = [0xee, 0xee, 10, 255, 55, 3];
    let tagged = [&[0, 5, 8, 0][..], &packet].concat();
    let arp = [0xff; 28];
    for (what, frame, reason) in [
        ("another's source", frame(gateway, other, 0x0800, &packet), DropReason::SpoofedSource),
        (
            "the gateway's source",
            frame(gateway, gateway, 0x0800, &packet),
            DropReason::SpoofedSource,
        ),
        ("another's address", frame(other, container, 0x0800, &packet), DropReason::WrongMac),
        ("broadcast", frame([0xff; 6], container, 0x0800, &packet), DropReason::NotUnicast),
        ("IPv6", frame(gateway, container, 0x86dd, &[0x60; 60]), DropReason::NotIpv4),
        ("802.3", frame(gateway, container, 60, &[0xaa; 60]), DropReason::NotIpv4),
        ("a VLAN", frame(gateway, container, 0x8100, &tagged), DropReason::NotIpv4),
        (
            "two VLANs",
            {
                let inner = [&[0, 5, 0x81, 0][..], &tagged].concat();
                frame(gateway, container, 0x88a8, &inner)
            },
            DropReason::NotIpv4,
        ),
        ("ARP of noise", frame([0xff; 6], container, 0x0806, &arp), DropReason::Malformed),
        ("short ARP", frame([0xff; 6], container, 0x0806, &arp[..9]), DropReason::Malformed),
    ] {
        let (mut batch, mut report) = (Batch::new(), Report::new());
        pair.send([0; HEADER_LEN], &frame).unwrap();
        pair.receive(&mut batch, &mut report, |batch, report| {
            !batch.is_empty() || report.count(reason) == 1
        });
        assert!(batch.is_empty(), "{what} came through");
    }
    // A header alone is an empty packet, for the pipeline to refuse.
    let (mut batch, mut report) = (Batch::new(), Report::new());
    pair.send([0; HEADER_LEN], &honest(&[])).unwrap();
    pair.receive(&mut batch, &mut report, |batch, _| batch.len() == 1);
    assert!(batch.head(0).is_empty());
    assert_eq!(pair.link.counters().errors(), 10);
}

#[test]
fn arp_requests_are_answered() {
    let pair = Pair::new();
    let (mut batch, mut report) = (Batch::new(), Report::new());
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
    request.extend(MACS.container);
    request.extend([10, 255, 55, 2, 0, 0, 0, 0, 0, 0, 169, 254, 0, 1]);
    let asked = frame([0xff; 6], MACS.container, 0x0806, &request);
    pair.send([0; HEADER_LEN], &asked).unwrap();
    let mut answered = 0;
    let deadline = Instant::now() + PATIENCE;
    while answered == 0 {
        pair.link.receive(&mut batch, 64, &mut report).unwrap();
        answered += report.take_answered();
        assert!(Instant::now() < deadline, "no answer");
    }
    let mut answer = vec![0, 1, 8, 0, 6, 4, 0, 2];
    answer.extend(MACS.gateway);
    answer.extend([169, 254, 0, 1]);
    answer.extend(MACS.container);
    answer.extend([10, 255, 55, 2]);
    assert_eq!(pair.arrives().1, frame(MACS.container, MACS.gateway, 0x0806, &answer));
    assert!(batch.is_empty());
}

#[test]
fn what_a_full_buffer_loses_is_counted() {
    let pair = Pair::new();
    let (mut batch, mut report) = (Batch::new(), Report::new());
    let frame = honest(&udp_packet(&[1; 1400]));
    let sent = (0..12_000).filter(|_| pair.send([0; HEADER_LEN], &frame).is_ok()).count();
    let mut came = 0;
    let deadline = Instant::now() + PATIENCE;
    while came + report.count(DropReason::NoBuffer) as usize != sent {
        batch.clear();
        came += pair.link.receive(&mut batch, 64, &mut report).unwrap().packets;
        let lost = report.count(DropReason::NoBuffer);
        assert!(Instant::now() < deadline, "of {sent}, {came} came and {lost} were lost");
    }
    assert!(report.count(DropReason::NoBuffer) > 0 && came > 1000, "{came} of {sent} came");
}

#[test]
fn a_pair_that_is_removed_is_gone() {
    let pair = Pair::new();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    // One that is down may come back.
    pair.cell.ip("link set host down");
    assert_eq!(pair.link.receive(&mut batch, 64, &mut report).unwrap().packets, 0);
    let head = place(&mut batch, &udp_packet(&[7; 100]));
    batch.push(head, Offload::default(), VIA).unwrap();
    assert_eq!(pair.link.transmit(&batch, [0], &mut scratch, &mut report), 0);
    assert_eq!(report.count(DropReason::LinkGone), 1);
    assert_ne!(pair.link.mode(), "veth gone");
    pair.cell.ip("link set host up");
    assert_eq!(pair.link.transmit(&batch, [0], &mut scratch, &mut report), 1);

    pair.cell.ip("link del host");
    let deadline = Instant::now() + PATIENCE;
    while pair.link.receive(&mut batch, 64, &mut report).is_ok() && !pair.link.is_gone() {
        assert!(Instant::now() < deadline, "the pair is still there");
    }
    assert_eq!(pair.link.mode(), "veth gone");
    assert_eq!(pair.link.transmit(&batch, [0], &mut scratch, &mut report), 0);
    assert_eq!(report.count(DropReason::LinkGone), 2);
}

#[test]
fn other_descriptors_are_refused() {
    let refused = |fd: OwnedFd| VethLink::new(fd, MACS, 1450, VIA, Arc::default()).is_err();
    assert!(refused(std::fs::File::open("/dev/null").unwrap().into()));
    assert!(refused(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()));
}
