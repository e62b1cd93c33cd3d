//! What the program says about single frames.

use super::*;

/// `TC_ACT_UNSPEC` and `TC_ACT_REDIRECT` of `linux/pkt_cls.h`.
const KERNELS: u32 = u32::MAX;
const OURS: u32 = 7;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 255, 55, 2);

/// Where a frame comes in.
#[derive(Clone, Copy)]
enum At {
    Underlay,
    Loopback,
}

/// A packet from its IPv4 header on, without checksums, which the program does not read.
fn packet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&[0xab, 0xcd]);
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet.extend_from_slice(payload);
    packet
}

/// The beginning of a TCP or UDP header.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.extend_from_slice(&[0; 16]);
    header
}

/// The same packet with an IPv4 option.
fn with_option(mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] = 0x46;
    packet[3] += 4;
    packet.splice(20..20, [1, 1, 1, 0]);
    packet
}

fn fragment(mut packet: Vec<u8>, id: u16, field: u16) -> Vec<u8> {
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet
}

const MORE: u16 = 0x2000;

fn to_cell(protocol: u8, port: u16) -> Vec<u8> {
    packet(protocol, CELLS[1], CELLS[0], &ports(40_000, port))
}

fn icmp(kind: u8, id: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// An ICMP message to the cell that quotes a packet: its header and 8 bytes (RFC 792).
fn about(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let len = quoted.first().map_or(0, |first| usize::from(first & 0xf) * 4 + 8);
    let message = [&icmp(kind, 0), &quoted[..len.min(quoted.len())]].concat();
    packet(ICMP, CELLS[1], CELLS[0], &message)
}

/// A frame to the interface itself.
fn frame(at: At, ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    let to = match at {
        At::Underlay => [2, 0, 0, 0, 0, 1],
        At::Loopback => [0; 6],
    };
    [&to, &[0; 6], &ethertype[..], packet].concat()
}

struct Program {
    site: Site,
    divert: Divert,
    underlay: u32,
}

impl Program {
    fn new() -> Self {
        let site = Site::new();
        let divert = site.divert();
        let underlay = site.cell.run(|| if_nametoindex("up0").unwrap());
        Self { site, divert, underlay }
    }

    /// What becomes of a frame with this packet, or of one that ends early.
    fn judge(&self, at: At, packet: &[u8]) -> u32 {
        self.judge_frame(at, &frame(at, [8, 0], packet))
    }

    fn judge_frame(&self, at: At, frame: &[u8]) -> u32 {
        let interface = match at {
            At::Underlay => self.underlay,
            At::Loopback => LOOPBACK,
        };
        let program = self.divert.program.try_clone().unwrap();
        let frame = frame.to_vec();
        self.site.cell.run(move || bpf::judge(&program, &frame, interface).unwrap())
    }

    fn assert(&self, expected: u32, cases: &[(&str, Vec<u8>)]) {
        for (what, packet) in cases {
            for at in [At::Underlay, At::Loopback] {
                assert_eq!(self.judge(at, packet), expected, "{what}");
            }
        }
    }
}

#[test]
fn ports_echo_replies_and_errors_of_ours_are_diverted() {
    let quoted = |protocol, port| packet(protocol, CELLS[0], CELLS[1], &ports(port, 443));
    let request = packet(ICMP, CELLS[0], CELLS[1], &icmp(8, 20_000));
    Program::new().assert(
        OURS,
        &[
            ("the first port of source NAT", to_cell(TCP, SNAT.first)),
            ("the last one", to_cell(UDP, SNAT.last)),
            ("a mapped port", to_cell(TCP, MAPPED)),
            ("IPv4 options", with_option(to_cell(TCP, MAPPED))),
            ("DF", fragment(to_cell(TCP, MAPPED), 7, 0x4000)),
            ("an echo reply", packet(ICMP, CELLS[1], CELLS[0], &icmp(0, SNAT.first))),
            ("unreachable", about(3, &quoted(TCP, 20_000))),
            ("source quench", about(4, &quoted(UDP, 20_000))),
            ("time exceeded", about(11, &quoted(UDP, SNAT.last))),
            ("parameter problem", about(12, &quoted(TCP, MAPPED))),
            ("about a request of echo", about(3, &request)),
            ("about IPv4 options", about(3, &with_option(quoted(UDP, 20_000)))),
            ("options around", with_option(about(3, &quoted(TCP, 20_000)))),
            ("about a first fragment", about(11, &fragment(quoted(UDP, 20_000), 7, MORE))),
        ],
    );
}

#[test]
fn everything_else_stays_with_the_kernel() {
    let quoted = |protocol, port| packet(protocol, CELLS[0], CELLS[1], &ports(port, 443));
    let others = |port| packet(TCP, CELLS[1], CELLS[0], &ports(port, 443));
    let changed = |at: usize, value: u8| {
        let mut packet = to_cell(TCP, MAPPED);
        packet[at] = value;
        packet
    };
    let program = Program::new();
    program.assert(
        KERNELS,
        &[
            ("SSH", to_cell(TCP, 22)),
            ("VXLAN", to_cell(UDP, 4789)),
            ("below source NAT", to_cell(UDP, SNAT.first - 1)),
            ("above source NAT", to_cell(TCP, SNAT.last + 1)),
            ("a port whose bytes are swapped", to_cell(TCP, MAPPED.swap_bytes())),
            ("a taken source port", packet(TCP, CELLS[1], CELLS[0], &ports(MAPPED, 22))),
            ("ESP", to_cell(50, MAPPED)),
            ("IP in IP", to_cell(4, MAPPED)),
            ("IGMP", to_cell(2, MAPPED)),
            ("ping of the cell", packet(ICMP, CELLS[1], CELLS[0], &icmp(8, 20_000))),
            ("a reply below", packet(ICMP, CELLS[1], CELLS[0], &icmp(0, SNAT.first - 1))),
            ("a reply above", packet(ICMP, CELLS[1], CELLS[0], &icmp(0, SNAT.last + 1))),
            ("a redirect", about(5, &quoted(TCP, 20_000))),
            ("a timestamp reply", packet(ICMP, CELLS[1], CELLS[0], &icmp(14, 20_000))),
            ("about a foreign port", about(3, &quoted(TCP, 443))),
            ("about a foreign packet", about(3, &others(20_000))),
            ("about a foreign protocol", about(3, &quoted(50, 20_000))),
            ("about an echo reply", about(3, &packet(ICMP, CELLS[0], CELLS[1], &icmp(0, 20_000)))),
            ("about a foreign echo", about(3, &packet(ICMP, CELLS[0], CELLS[1], &icmp(8, 9)))),
            ("about a later fragment", about(3, &fragment(quoted(TCP, 20_000), 7, 100))),
            ("about IPv6", about(3, &[0x65; 40])),
            ("another version", changed(0, 0x65)),
            ("an impossible header length", changed(0, 0x44)),
            ("another address", changed(19, 99)),
            ("from 127/8", packet(TCP, Ipv4Addr::LOCALHOST, CELLS[0], &ports(1, MAPPED))),
            ("a neighbour of the subnet", packet(TCP, CELLS[1], [10, 255, 54, 2].into(), &[0; 20])),
        ],
    );
    for ethertype in [[8, 6], [0x86, 0xdd], [0x81, 0]] {
        let frame = frame(At::Underlay, ethertype, &to_cell(TCP, MAPPED));
        assert_eq!(program.judge_frame(At::Underlay, &frame), KERNELS, "{ethertype:x?}");
    }
    // Seen because the interface is promiscuous; the kernel drops it.
    let frame = frame(At::Loopback, [8, 0], &to_cell(TCP, MAPPED));
    assert_eq!(program.judge_frame(At::Underlay, &frame), KERNELS, "to another host's MAC");
}

#[test]
fn other_protocols_are_diverted_while_there_is_source_nat() {
    let program = Program::new();
    let quoted = packet(47, CELLS[0], CELLS[1], &ports(0, 0));
    let others = packet(47, CELLS[1], CELLS[0], &ports(0, 0));
    let packets =
        [("GRE", to_cell(47, 0)), ("SCTP", to_cell(132, 0)), ("about", about(3, &quoted))];
    program.assert(OURS, &packets);
    program.assert(KERNELS, &[("about a packet of somebody else", about(3, &others))]);
}

#[test]
fn packets_that_end_early_stay_with_the_kernel() {
    let program = Program::new();
    let tcp = packet(TCP, CELLS[0], CELLS[1], &ports(20_000, 443));
    let echo = packet(ICMP, CELLS[0], CELLS[1], &icmp(8, 20_000));
    for (whole, needed) in [
        (to_cell(TCP, MAPPED), 24),
        (with_option(to_cell(TCP, MAPPED)), 28),
        (packet(ICMP, CELLS[1], CELLS[0], &icmp(0, 20_000)), 28),
        (about(3, &tcp), 28 + 24),
        (about(3, &echo), 28 + 28),
        (about(3, &with_option(echo)), 28 + 32),
    ] {
        // The kernel tests no packet that is shorter than its IPv4 header.
        for len in 20..=whole.len() {
            let expected = if len < needed { KERNELS } else { OURS };
            let end = &whole[..len];
            assert_eq!(program.judge(At::Underlay, end), expected, "{len} bytes of {whole:x?}");
        }
    }
}

#[test]
fn packets_for_containers_are_diverted_where_others_send_them() {
    let program = Program::new();
    for protocol in [ICMP, TCP, UDP, 47] {
        let packet = packet(protocol, CELLS[1], CONTAINER, &ports(443, 22));
        assert_eq!(program.judge(At::Underlay, &packet), OURS);
        assert_eq!(program.judge(At::Underlay, &fragment(packet.clone(), 7, 100)), OURS);
        assert_eq!(program.judge(At::Loopback, &packet), KERNELS);
    }
    let own = packet(TCP, CELLS[1], [10, 255, 55, 0].into(), &ports(443, 22));
    assert_eq!(program.judge(At::Underlay, &own), KERNELS, "the cell's own address");
}

#[test]
fn later_fragments_follow_their_first() {
    let program = Program::new();
    let judge = |packet: Vec<u8>| program.judge(At::Underlay, &packet);
    for taken in [to_cell(UDP, MAPPED), packet(ICMP, CELLS[1], CELLS[0], &icmp(0, 20_000))] {
        let foreign = if taken[9] == UDP { to_cell(UDP, 53) } else { about(8, &[]) };
        assert_eq!(judge(fragment(taken.clone(), 7, 100)), KERNELS, "no first one yet");
        assert_eq!(judge(fragment(taken.clone(), 7, MORE)), OURS);
        assert_eq!(judge(fragment(taken.clone(), 7, MORE | 0x64)), OURS);
        assert_eq!(judge(fragment(taken.clone(), 7, 200)), OURS);
        assert_eq!(judge(fragment(taken.clone(), 8, 200)), KERNELS, "another packet");
        let mut other = fragment(taken.clone(), 7, 200);
        other[15] ^= 1;
        assert_eq!(judge(other), KERNELS, "another sender");
        // The same identifier again, for the kernel.
        assert_eq!(judge(fragment(foreign.clone(), 7, MORE)), KERNELS);
        assert_eq!(judge(fragment(foreign, 7, 200)), KERNELS);
    }
}

#[test]
fn ports_are_taken_and_given_back() {
    let program = Program::new();
    let judge = |protocol, port| program.judge(At::Underlay, &to_cell(protocol, port));
    let range = |first, last| PortRange { first, last };
    let mapped = TakenPorts {
        tcp: vec![range(61_001, 61_130)],
        udp: vec![range(0, 0), range(65_535, 65_535)],
    };
    program.divert.set_ports(&mapped).unwrap();
    for (protocol, port, expected) in [
        (TCP, 61_000, KERNELS),
        (TCP, 61_001, OURS),
        (TCP, 61_130, OURS),
        (TCP, 61_131, KERNELS),
        (UDP, 61_001, KERNELS),
        (UDP, 0, OURS),
        (TCP, 0, KERNELS),
        (UDP, 65_535, OURS),
        (TCP, MAPPED, KERNELS),
        (UDP, 20_000, OURS),
        (TCP, 20_000, OURS),
    ] {
        assert_eq!(judge(protocol, port), expected, "protocol {protocol}, port {port}");
    }
    program.divert.set_ports(&TakenPorts::default()).unwrap();
    assert_eq!(judge(TCP, 61_001), KERNELS);
    assert_eq!(judge(TCP, 20_000), OURS, "source NAT keeps its ports");
}

#[test]
fn without_source_nat_only_mapped_ports_are_diverted() {
    let site = Site::new();
    let divert = site.cell.run(|| {
        let settings = Settings { snat_ports: None, ..settings() };
        let tcp = vec![PortRange { first: MAPPED, last: MAPPED }];
        Divert::attach(settings, &TakenPorts { tcp, udp: Vec::new() }).unwrap()
    });
    let underlay = site.cell.run(|| if_nametoindex("up0").unwrap());
    let program = Program { site, divert, underlay };
    program.assert(OURS, &[("mapped", to_cell(TCP, MAPPED))]);
    program.assert(
        KERNELS,
        &[
            ("GRE", to_cell(47, 0)),
            ("UDP", to_cell(UDP, MAPPED)),
            ("a port", to_cell(TCP, 20_000)),
            ("identifier 0", packet(ICMP, CELLS[1], CELLS[0], &icmp(0, 0))),
            ("identifier 1", packet(ICMP, CELLS[1], CELLS[0], &icmp(0, 1))),
        ],
    );
}
