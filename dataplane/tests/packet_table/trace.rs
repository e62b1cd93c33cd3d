//! The walks of traced packets.

use std::time::Duration;

use sarcenet_dataplane::packet::Via;
use sarcenet_dataplane_api::{DropReason, FlowState, RuleId, TraceFilter, TraceStep, Walk};

use crate::cell::TestCell;
use crate::table::packet::{ACK, Packet, SYN, tcp, tcp_reply, udp};
use crate::table::world::{A, B, C, REMOTE_A, REMOTE_B, World, tcp_rule};

fn cell() -> TestCell {
    TestCell::new(&World { rules: vec![tcp_rule(A, B, 8080)], ..World::default() }, 1024)
}

/// The walks of these packets, one batch each, that an observer with this filter sees.
fn walks(cell: &mut TestCell, filter: TraceFilter, packets: &[Packet]) -> Vec<Walk> {
    let shared = cell.shared();
    let observer = shared.trace.observe(filter);
    for packet in packets {
        cell.carry([packet]);
    }
    let walks = observer.wait(Duration::ZERO, usize::MAX);
    assert_eq!(observer.take_lost(), 0);
    walks
}

#[test]
fn an_admitted_packet_and_its_reply() {
    let packets = [tcp(REMOTE_A, B, 8080, SYN), tcp_reply(B, REMOTE_A, 8080, SYN | ACK)];
    let seen = walks(&mut cell(), TraceFilter::default(), &packets);
    let [request, reply] = &seen[..] else { panic!("{seen:?}") };
    let steps = &request.steps[..];
    assert!(matches!(steps[0], TraceStep::Received { len: 62, segment: None, .. }), "{steps:?}");
    assert!(matches!(steps[2], TraceStep::Parsed { protocol: 6, tcp_flags: SYN, .. }), "{steps:?}");
    assert_eq!(
        [steps[1], steps[3], steps[4]],
        [
            TraceStep::Decapsulated { tag: Some(1), vni: 1 },
            TraceStep::FlowMiss { stale: false },
            TraceStep::SourceChecked,
        ]
    );
    assert_eq!(
        steps[5..],
        [
            TraceStep::Routed { to: B.door.into() },
            TraceStep::Policy { tag: 1, rule: Some(RuleId(1)) },
            TraceStep::FlowCreated,
            TraceStep::Transmitted { to: B.door.into() },
        ]
    );
    let Via::Tunnel(peer) = REMOTE_A.door else { panic!() };
    assert_eq!(
        reply.steps[2..],
        [
            TraceStep::FlowHit { state: FlowState::SynSent, forward: false, rule: Some(RuleId(1)) },
            TraceStep::Encapsulated { peer, tag: 2 },
            TraceStep::Transmitted { to: REMOTE_A.door.into() },
        ]
    );
}

#[test]
fn a_refused_packet_ends_with_its_reason_and_its_answer() {
    let seen = walks(&mut cell(), TraceFilter::default(), &[tcp(C, B, 8080, SYN)]);
    assert_eq!(
        seen[0].steps[5..],
        [
            TraceStep::Policy { tag: 3, rule: None },
            TraceStep::Answered { icmp_type: 3, icmp_code: 3 },
            TraceStep::Dropped { reason: DropReason::PolicyDenied },
        ]
    );
}

#[test]
fn a_filter_takes_what_it_asks_for_in_both_directions() {
    let packets = [
        tcp(A, B, 8080, SYN),
        tcp_reply(B, A, 8080, SYN | ACK),
        tcp(C, B, 8080, SYN),
        udp(A, REMOTE_B, 53),
        udp(A, B, 53).damaged(|bytes| bytes.truncate(10)),
    ];
    let count = |filter| walks(&mut cell(), filter, &packets).len();
    let of = |end: crate::table::world::End| Some(end.address.into());
    assert_eq!(count(TraceFilter::default()), 5);
    assert_eq!(count(TraceFilter { from: of(A), to: of(B), ..Default::default() }), 2);
    assert_eq!(count(TraceFilter { from: of(B), to: of(A), ..Default::default() }), 2);
    assert_eq!(count(TraceFilter { to: of(A), ..Default::default() }), 3);
    assert_eq!(count(TraceFilter { protocol: Some(17), ..Default::default() }), 1);
    assert_eq!(count(TraceFilter { port: Some(8080), ..Default::default() }), 3);
    assert_eq!(count(TraceFilter { drops_only: true, ..Default::default() }), 2);
    assert_eq!(count(TraceFilter { drops_only: true, from: of(C), ..Default::default() }), 1);
}

#[test]
fn nobody_reading_loses_walks_and_knows_how_many() {
    let mut cell = cell();
    let shared = cell.shared();
    let observer = shared.trace.observe(TraceFilter::default());
    let packet = udp(A, REMOTE_B, 53);
    for _ in 0..20 {
        cell.carry(std::iter::repeat_n(&packet, 100));
    }
    let kept = observer.wait(Duration::ZERO, usize::MAX).len() as u64;
    assert_eq!(kept + observer.take_lost(), 2_000);
    assert_eq!(observer.take_lost(), 0);
}

#[test]
fn without_observers_nothing_is_recorded() {
    let mut cell = cell();
    let seen = walks(&mut cell, TraceFilter::default(), &[udp(A, REMOTE_B, 53)]);
    assert_eq!(seen.len(), 1);
    // The observer is gone; the next one sees only what comes after it.
    cell.carry([&udp(A, REMOTE_B, 53)]);
    let seen = walks(&mut cell, TraceFilter::default(), &[udp(A, REMOTE_B, 54)]);
    assert_eq!(seen.len(), 1);
}
