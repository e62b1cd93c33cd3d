//! What goes wrong at a door, on real devices. Every path has a counter and a test:
//!
//! | path | counter | test |
//! | --- | --- | --- |
//! | any device stays full, one write or a storm of them | `link_full` | `link/writer/tests.rs: a_full_device_is_counted_and_is_no_error` |
//! | one write of several fails | `link_error`, the link's errors | `an_error_in_the_middle_costs_one_packet` there |
//! | io_uring fails | none: packets are written one by one | `a_ring_that_fails_is_given_up` there |
//! | EINVAL for a super-packet | the link's mode | `a_refused_kind_of_super_packet_is_cut_from_then_on` there |
//! | veth whose packets stay in the kernel, through io_uring | `link_full` | [`a_container_that_takes_nothing_holds_nobody_up`] |
//! | TUN down or removed | `link_error`, `link_gone`, mode `tun gone` | `link/tests.rs: a_device_that_is_down_or_gone_says_so` |
//! | TUN's namespace destroyed | `link_gone` | [`a_tun_goes_with_its_namespace`] |
//! | TUN's MTU changed | none: any size is read | [`a_container_that_raises_its_mtu_is_read_all_the_same`] |
//! | veth full towards the container | `link_full` | [`a_full_veth_is_counted_and_recovers`] |
//! | veth full towards the cell | `no_buffer` | `link/veth/tests.rs: what_a_full_buffer_loses_is_counted` |
//! | veth down or removed | `link_gone`, mode `veth gone` | `a_pair_that_is_removed_is_gone` there |
//! | veth's namespace destroyed | `link_gone` | [`a_veth_goes_with_its_containers_namespace`] |
//! | veth's MTU changed | `link_error` | [`a_packet_larger_than_a_veth_is_an_error`] |
//! | UDP socket full | `link_full` | [`a_full_socket_is_counted_and_recovers`] |
//! | underlay without its address | `link_error` | [`an_underlay_without_its_address_is_an_error_until_it_is_back`] |
//! | underlay's MTU changed | `link_error` | `link/tests.rs: a_packet_larger_than_the_underlay_is_an_error_and_no_fragments` |
//! | EADDRINUSE for the tunnel | the change is refused | `a_port_in_use_is_a_clear_error` there |
//! | a train refused (EINVAL) | mode without `gso` | `link/udp/tests.rs: trains_that_are_refused_leave_as_datagrams` |
//! | TAP down or removed | mode without `tunnel-gso` | `link/udp/tests.rs: a_device_that_takes_no_more_is_left_alone` |
//! | AF_XDP: rings full, no frames, MTU, removed, namespace, EBUSY | `link_full`, `lost`, `link_error`, `link_gone` | `link/xdp/tests/errors.rs` |

use std::net::UdpSocket;

use nix::net::if_::if_nametoindex;
use sarcenet_packet_socket::PacketSocket;

use super::*;
use crate::link::testing::udp_packet;
use crate::link::veth::{Macs, VethLink};

const VIA: Via = Via::Container(PortId(2));

fn one_packet(payload: usize) -> Batch {
    let mut batch = Batch::new();
    push_cut(&mut batch, &udp_packet(&vec![1; payload]), &[], Offload::default());
    batch
}

#[test]
fn a_tun_goes_with_its_namespace() {
    // Made outside, because a descriptor keeps the namespace alive in which it was opened.
    let (cell, container) = (Namespace::new(), Namespace::new());
    let link = TunLink::new(cell.tun("eth0", MTU), MTU, VIA).unwrap();
    cell.ip(&format!("link set eth0 netns {}", container.id));
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    assert!(link.receive(&mut batch, 1, &mut report).unwrap().drained);
    drop(container);
    until("gone", || link.receive(&mut batch, 1, &mut report).is_err());
    assert_eq!(link.transmit(&one_packet(10), [0], &mut scratch, &mut report), 0);
    assert_eq!((report.count(DropReason::LinkGone), link.mode().as_str()), (1, "tun gone"));
}

#[test]
fn a_container_that_raises_its_mtu_is_read_all_the_same() {
    let ([a, _b], [link, _]) = containers();
    a.ip("link set eth0 mtu 9000");
    let to = (ADDRESS[1], 9);
    a.run(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[7; 8000], to).unwrap());
    let (mut batch, mut report) = (Batch::new(), Report::new());
    until("a packet", || link.receive(&mut batch, 1, &mut report).unwrap().packets == 1);
    assert_eq!(batch.packet(0).len(), 8000 + 28);
}

/// A link to a container with a veth; the cell's namespace and the container's.
fn veth() -> (VethLink, Namespace, Namespace) {
    let (cell, container) = (Namespace::new(), Namespace::new());
    cell.ip(&format!("link add host type veth peer name eth0 netns {}", container.id));
    cell.ip("link set host up");
    container.ip("link set eth0 up");
    cell.wait_for_carrier("host");
    let socket = cell.run(|| PacketSocket::open(if_nametoindex("host").unwrap()).unwrap());
    let macs = Macs { container: [2; 6], gateway: [4; 6] };
    let link = VethLink::new(socket.into_fd(), macs, MTU, VIA, Arc::default()).unwrap();
    (link, cell, container)
}

#[test]
fn a_veth_goes_with_its_containers_namespace() {
    let (link, _cell, container) = veth();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    assert_eq!(link.transmit(&one_packet(10), [0], &mut scratch, &mut report), 1);
    drop(container);
    // A device goes down before it goes, and its socket says so once (`packet_notifier` in
    // `net/packet/af_packet.c`): who receives between the two learns the rest by asking.
    until("gone", || {
        link.receive(&mut batch, 64, &mut report).is_err() || link.mode() == "veth gone"
    });
    assert_eq!(link.transmit(&one_packet(10), [0], &mut scratch, &mut report), 0);
    assert_eq!((report.count(DropReason::LinkGone), link.mode().as_str()), (1, "veth gone"));
}

#[test]
fn a_packet_larger_than_a_veth_is_an_error() {
    let (link, cell, _container) = veth();
    let (mut scratch, mut report) = (Scratch::new(), Report::new());
    cell.ip("link set host mtu 1000");
    assert_eq!(link.transmit(&one_packet(1200), [0], &mut scratch, &mut report), 0);
    assert_eq!(link.transmit(&one_packet(100), [0], &mut scratch, &mut report), 1);
    assert_eq!((report.count(DropReason::LinkError), link.counters().errors()), (1, 1));
}

/// Packets wait in a queue that is never emptied, and then find no place in it.
#[test]
fn a_full_veth_is_counted_and_recovers() {
    let (link, cell, _container) = veth();
    let (mut scratch, mut report) = (Scratch::new(), Report::new());
    cell.command("tc qdisc replace dev host root tbf rate 8bit burst 1600 limit 4000");
    let batch = one_packet(1200);
    let sent =
        (0..10).map(|_| link.transmit(&batch, [0], &mut scratch, &mut report)).sum::<usize>();
    assert!((1..10).contains(&sent), "{sent} of 10");
    assert_eq!(report.count(DropReason::LinkFull) as usize, 10 - sent);
    assert_eq!((link.counters().errors(), link.counters().tx().0 as usize), (0, sent));
    cell.command("tc qdisc del dev host root");
    assert_eq!(link.transmit(&batch, [0], &mut scratch, &mut report), 1);
}

/// A container that keeps what it is sent holds no worker up, which writes many packets in a call.
#[test]
fn a_container_that_takes_nothing_holds_nobody_up() {
    let (link, cell, _container) = veth();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    scratch.open_ring().unwrap();
    cell.command("tc qdisc replace dev host root tbf rate 8bit burst 70000 limit 100000000");
    for _ in 0..20 {
        push_cut(&mut batch, &udp_packet(&[1; 1400]), &[], Offload::default());
    }
    let mut sent = 0;
    until("the socket is full", || {
        for _ in 0..100 {
            sent += link.transmit(&batch, 0..20, &mut scratch, &mut report);
        }
        report.count(DropReason::LinkFull) > 0
    });
    assert_eq!((link.counters().errors(), link.counters().tx().0 as usize), (0, sent));
    cell.command("tc qdisc del dev host root");
    assert_eq!(link.transmit(&batch, 0..20, &mut scratch, &mut report), 20);
}

#[test]
fn a_full_socket_is_counted_and_recovers() {
    let (namespace, [one, _other]) = tunnels();
    namespace.command("tc qdisc replace dev lo root tbf rate 8bit burst 70000 limit 100000000");
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    let mut packet = tcp_packet(&vec![5; 43 * 1398], 1);
    let offload = make_super(&mut packet, 1398);
    for _ in 0..10 {
        add(&mut batch, &packet, offload, 9);
    }
    let mut sent = 0;
    until("the socket is full", || {
        sent += one.transmit(&batch, 0..10, &mut scratch, &mut report);
        report.count(DropReason::LinkFull) > 0
    });
    let full = report.count(DropReason::LinkFull);
    assert_eq!(one.transmit(&batch, [0], &mut scratch, &mut report), 0);
    assert_eq!(report.count(DropReason::LinkFull), full + 1);
    assert_eq!((one.counters().errors(), one.counters().tx().0 as usize), (0, sent));
    assert_eq!(one.mode(), "udp gso gro", "a full socket is no lack of an offload");
    namespace.command("tc qdisc del dev lo root");
    assert_eq!(one.transmit(&batch, [0], &mut scratch, &mut report), 1);
}

#[test]
fn an_underlay_without_its_address_is_an_error_until_it_is_back() {
    let (namespace, [one, other]) = tunnels();
    let (mut batch, mut scratch, mut report) = (Batch::new(), Scratch::new(), Report::new());
    add(&mut batch, &udp_packet(&[1; 100]), Offload::default(), 0);
    namespace.ip("addr del 127.0.0.1/8 dev lo");
    assert_eq!(one.transmit(&batch, [0], &mut scratch, &mut report), 0);
    assert_eq!((report.count(DropReason::LinkError), one.counters().errors()), (1, 1));
    assert!(other.receive(&mut Batch::new(), 64, &mut scratch, &mut report).drained);
    namespace.ip("addr add 127.0.0.1/8 dev lo");
    assert_eq!(one.transmit(&batch, [0], &mut scratch, &mut report), 1);
    receive_all(&other, 1);
}
