//! What happens when there is no more of something.

use sarcenet_dataplane::packet::{Verdict, Via};
use sarcenet_dataplane_api::DropReason;

use crate::cell::TestCell;
use crate::table::packet::{ACK, Packet, SYN, Transport, tcp, tcp_reply, udp, udp_reply};
use crate::table::world::{A, B, C, REMOTE_B, World, tcp_rule};

fn with_source_port(packet: Packet, port: u16) -> Packet {
    packet.with(|packet| match &mut packet.transport {
        Transport::Tcp { ports, .. } | Transport::Udp { ports, .. } => ports.0 = port,
        Transport::Icmp { .. } | Transport::Raw(_) => {}
    })
}

/// Older conversations make room for new ones as soon as nobody looks at them any more; until
/// then new ones are refused.
#[test]
fn a_full_flow_table() {
    let world = World { rules: vec![tcp_rule(A, B, 8080)], ..World::default() };
    let mut cell = TestCell::new(&world, 64);
    let shared = cell.shared();
    shared.flows.set_half_open_limit(u32::MAX);
    let reader = shared.flows.pin();
    let mut syns = (1000..).map(|port| with_source_port(tcp(A, B, 8080, SYN), port)).take(20_000);
    let full = syns.by_ref().find(|syn| cell.carry([syn])[0] != Verdict::Forward(B.door));
    let full = full.expect("a table for 64 flows takes no 20,000");
    assert_eq!(cell.carry([&full]), [Verdict::Drop(DropReason::FlowTableFull)]);
    let status = shared.flows.status();
    assert!(status.used <= status.capacity, "{status:?}");
    drop(reader);
    // Other tests of this process read too, and may be asleep while they do.
    let passes = (0..10_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        cell.carry([&full])[0] == Verdict::Forward(B.door)
    });
    assert!(passes, "no room was made");
}

#[test]
fn no_buffer_for_fragments() {
    let mut cell = TestCell::new(&World::default(), 1024);
    let large = udp(A, REMOTE_B, 53).payload(40_000).with(|packet| packet.dont_frag = false);
    let verdicts = cell.carry(std::iter::repeat_n(&large, 120));
    let forwarded = verdicts.iter().filter(|v| matches!(v, Verdict::Forward(Via::Tunnel(_))));
    let dropped = verdicts.iter().filter(|v| **v == Verdict::Drop(DropReason::NoBuffer));
    let (forwarded, dropped) = (forwarded.count(), dropped.count());
    assert!(dropped > 0);
    assert_eq!(forwarded + dropped, 120);
}

#[test]
fn answers_are_limited_and_what_is_not_said_is_counted() {
    let mut cell = TestCell::new(&World::default(), 1024);
    let refused = tcp(A, B, 8080, SYN);
    for _ in 0..100 {
        let verdicts = cell.carry(std::iter::repeat_n(&refused, 64));
        assert!(verdicts.iter().all(|v| *v == Verdict::Drop(DropReason::PolicyDenied)));
    }
    let totals = cell.totals();
    assert_eq!(totals.answered + totals.answers_suppressed, 6_400);
    // The burst, and 10 for each of the batches' milliseconds.
    assert!((1_000..=2_010).contains(&totals.answered), "{totals:?}");
}

/// Refusals of a full batch find no buffer for their answers; the packets end all the same.
#[test]
fn no_buffer_for_answers() {
    let mut cell = TestCell::new(&World::default(), 1024);
    let refused = tcp(A, B, 8080, SYN);
    let verdicts = cell.carry(std::iter::repeat_n(&refused, 128));
    assert_eq!(verdicts.len(), 128);
    let totals = cell.totals();
    assert_eq!((totals.answered, totals.answers_suppressed), (0, 128));
}

/// A container that scans has its part of the table and no more: further flows take the place of
/// its own, and what others have established stays.
#[test]
fn a_container_that_scans_replaces_its_own_flows() {
    const FLOWS: usize = 4096;
    let world = World { rules: vec![tcp_rule(A, B, 8080)], ..World::default() };
    let mut cell = TestCell::new(&world, FLOWS);
    // Another container fills half of the table with answered conversations.
    let shared = cell.shared();
    for port in 0..FLOWS as u16 / 2 {
        let ask = with_source_port(udp(C, REMOTE_B, 53), 1000 + port);
        let answer = udp_reply(REMOTE_B, C, 53).with(|p| {
            if let Transport::Udp { ports, .. } = &mut p.transport {
                ports.1 = 1000 + port;
            }
        });
        assert_eq!(cell.carry([&ask]), [Verdict::Forward(REMOTE_B.door)]);
        assert_eq!(cell.carry([&answer]), [Verdict::Forward(C.door)]);
    }
    for port in 0..20_000 {
        let syn = with_source_port(tcp(A, B, 8080, SYN), 1000 + port);
        // Places of replaced flows may wait for other tests of this process.
        while cell.carry([&syn])[0] != Verdict::Forward(B.door) {
            std::thread::yield_now();
        }
        assert!(shared.flows.status().used <= (FLOWS / 2 + FLOWS / 4) as u64);
    }
    assert_eq!(shared.flows.status().evicted, 0, "nobody else made way");
    // A conversation that is answered no longer counts.
    let answered = tcp_reply(B, A, 8080, SYN | ACK)
        .with(|p| {
            if let Transport::Tcp { ports, .. } = &mut p.transport {
                ports.1 = 20_999;
            }
        })
        .numbered(0, 1);
    assert_eq!(cell.carry([&answered]), [Verdict::Forward(A.door)]);
    let used = shared.flows.status().used;
    assert_eq!(cell.carry([&tcp(A, B, 8080, SYN)]), [Verdict::Forward(B.door)]);
    assert_eq!(shared.flows.status().used, used + 1);
}

/// What cannot be replaced, because what waits lies where nobody looks, is refused.
#[test]
fn more_unanswered_flows_than_a_container_may_have() {
    let world = World { rules: vec![tcp_rule(A, B, 8080)], ..World::default() };
    let mut cell = TestCell::new(&world, 65_536);
    let shared = cell.shared();
    // The one flow of A hides among those of others.
    shared.flows.set_half_open_limit(u32::MAX);
    for port in 0..60_000 {
        cell.carry([&with_source_port(udp(C, REMOTE_B, 53), 1000 + port)]);
    }
    assert_eq!(cell.carry([&tcp(A, B, 8080, SYN)]), [Verdict::Forward(B.door)]);
    shared.flows.set_half_open_limit(1);
    let verdicts: Vec<_> = (0..20)
        .flat_map(|port| cell.carry([&with_source_port(tcp(A, B, 8080, SYN), 2000 + port)]))
        .collect();
    assert!(verdicts.contains(&Verdict::Drop(DropReason::HalfOpenLimit)));
    assert_eq!(shared.flows.status().used, 60_001);
}
