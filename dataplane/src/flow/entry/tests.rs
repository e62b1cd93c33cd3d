use super::*;
use crate::flow::TCP_SYN;

fn flow() -> Flow {
    let flow = Flow::default();
    let key = FlowKey {
        source: Ipv4Addr::BROADCAST,
        destination: Ipv4Addr::new(10, 255, 1, 2),
        source_port: 65_535,
        destination_port: 1,
        protocol: 255,
    };
    let doors = (Via::Host, Via::Tunnel(Ipv4Addr::new(10, 77, 0, 12)));
    let new = NewFlow {
        key,
        from: doors.0,
        to: doors.1,
        tag: 5,
        rule: None,
        generation: u32::MAX,
        nat: Nat::None,
    };
    flow.fill(&new, 0, 100);
    flow
}

#[test]
fn says_what_was_written() {
    let flow = flow();
    assert_eq!(flow.key().source_port, 65_535);
    assert_eq!((flow.key().protocol, flow.key().destination_port), (255, 1));
    assert_eq!((flow.from(), flow.rule(), flow.generation()), (Via::Host, None, u32::MAX));
    assert_eq!(flow.direction(&flow.key()), Some(true));
    assert_eq!(flow.direction(&flow.key().reversed()), Some(false));
    flow.decide(6, Some(RuleId(7)), 1);
    assert_eq!((flow.from(), flow.to()), (Via::Host, Via::Tunnel(Ipv4Addr::new(10, 77, 0, 12))));
    assert_eq!((flow.tag(), flow.rule(), flow.generation()), (6, Some(RuleId(7)), 1));
    assert_eq!(flow.key().protocol, 255, "a decision does not touch the key");
}

#[test]
fn a_conversation_with_itself_runs_forward() {
    let flow = flow();
    let key = FlowKey {
        destination: flow.key().source,
        destination_port: flow.key().source_port,
        ..flow.key()
    };
    let new = NewFlow {
        key,
        from: Via::Host,
        to: Via::Host,
        tag: 0,
        rule: None,
        generation: 1,
        nat: Nat::None,
    };
    flow.fill(&new, 0, 0);
    assert_eq!(flow.direction(&key), Some(true));
    assert_eq!(flow.direction(&key.reversed()), Some(true));
}

#[test]
fn doors_come_back_as_they_were() {
    let ports = [0, 1, 255, 256, 65_535].map(|port| Via::Container(PortId(port)));
    let peers = [[1, 0, 0, 0], [10, 77, 0, 11], [255, 255, 255, 255]];
    let peers = peers.map(|address| Via::Tunnel(address.into()));
    for via in [Via::Host].into_iter().chain(ports).chain(peers) {
        assert_eq!(decode(encode(via)), via);
    }
    // Addresses that no host has must not turn into doors of this cell.
    for nobody in [0, 0x0001_0003, 0x00ff_ffff] {
        let back = decode(encode(Via::Tunnel(Ipv4Addr::from(nobody))));
        assert_eq!(back, Via::Tunnel(Ipv4Addr::new(0, 255, 255, 255)));
    }
}

#[test]
fn counts_each_direction_beyond_the_first_word() {
    let flow = flow();
    for _ in 0..3_000 {
        flow.count(true, 45, 65_535, 101);
    }
    flow.count(false, u32::MAX, u32::MAX, 103);
    flow.count(false, 1, 1, 102);
    let info = flow.info(162, Ipv4Addr::UNSPECIFIED);
    assert_eq!(info.packets, [135_000, 1 << 32]);
    assert_eq!(info.bytes, [3_000 * 65_535, 1 << 32]);
    assert_eq!(info.idle_s, 6);
    assert_eq!(
        flow.info(50, Ipv4Addr::UNSPECIFIED).idle_s,
        0,
        "a worker that is behind sees no idle time"
    );
}

#[test]
fn filling_again_forgets_everything() {
    let flow = flow();
    flow.count(false, 2_000, 9_999, 500);
    flow.advance(false, Some(TCP_SYN));
    flow.set_scales(Scales(0x21));
    flow.mark_removed();
    assert!(!flow.status().is_live() && flow.established());
    let again = NewFlow {
        key: flow.key().reversed(),
        from: Via::Host,
        to: Via::Host,
        tag: 0,
        rule: None,
        generation: 3,
        nat: Nat::None,
    };
    flow.fill(&again, 0, 600);
    assert!(flow.status().is_live() && !flow.established());
    let info = flow.info(600, Ipv4Addr::UNSPECIFIED);
    assert_eq!((info.packets, info.bytes, info.idle_s), ([0, 0], [0, 0], 0));
    assert_eq!((info.state, info.tag), (FlowState::New, 0));
    assert_eq!(flow.scales(), Scales::default());
}

#[test]
fn a_translation_lies_beside_the_key() {
    let flow = flow();
    assert_eq!(flow.translated(), None);
    let cell = Ipv4Addr::new(192, 0, 2, 61);
    let key = flow.key();
    for (nat, side, port) in [
        (Nat::Source, Side::Source, 65_535),
        (Nat::Source, Side::Source, 0),
        (Nat::Destination { cell_port: 80 }, Side::Destination, 80),
    ] {
        let new =
            NewFlow { key, from: Via::Host, to: Via::Host, tag: 0, rule: None, generation: 1, nat };
        flow.fill(&new, port, 0);
        assert_eq!((flow.key(), flow.translated()), (key, Some((side, port))));
        assert_eq!(flow.info(0, cell).nat, Some(SocketAddrV4::new(cell, port)));
        let outer = outer_view(&key, side, cell, port);
        for (view, forward) in [
            (key, Some(true)),
            (key.reversed(), Some(false)),
            (outer, Some(true)),
            (outer.reversed(), Some(false)),
            (FlowKey { protocol: 6, ..key }, None),
            (FlowKey { source_port: 1, destination_port: 2, ..outer }, None),
        ] {
            assert_eq!(flow.direction(&view), None, "that is for flows without NAT");
            assert_eq!(flow.translated_direction(&view, cell), forward, "{view:?}");
        }
        assert!(flow.adopt());
    }
}
