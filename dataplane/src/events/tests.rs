use std::sync::Arc;
use std::thread;

use super::*;

const SECOND: u64 = 1_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;

const ALL: Logging =
    Logging { overlay: true, egress: true, denied_per_second: 1, accepted_udp_per_second: 100 };

fn key(protocol: u8, port: u16) -> FlowKey {
    FlowKey {
        source: [10, 255, 55, 2].into(),
        destination: [192, 0, 2, 9].into(),
        source_port: port,
        destination_port: 443,
        protocol,
    }
}

fn subject(key: &FlowKey, port: u16) -> Subject<'_> {
    let rule = Some(RuleId(7));
    Subject { port: PortId(port), container: key.source, tag: 3, key, rule, asked: false }
}

/// How many of `count` events are recorded.
fn recorded(
    log: &EventLog,
    logging: &Logging,
    now_ns: u64,
    kind: EventKind,
    protocol: u8,
    count: u16,
) -> usize {
    let observer = log.observe();
    for port in 0..count {
        log.record(logging, now_ns, kind, &subject(&key(protocol, port), 2));
    }
    let (events, lost) = observer.take(0, usize::MAX);
    assert_eq!(lost, 0);
    events.len()
}

#[test]
fn an_event_says_what_happened_and_when() {
    let log = EventLog::default();
    let observer = log.observe();
    log.record(&ALL, 5, EventKind::EgressAllowed, &subject(&key(TCP, 40_000), 2));
    let (events, lost) = observer.take(1_700_000_000 * SECOND, 10);
    let expected = Event {
        at_ns: 1_700_000_000 * SECOND + 5,
        kind: EventKind::EgressAllowed,
        port: PortId(2),
        container: [10, 255, 55, 2].into(),
        tag: 3,
        protocol: TCP,
        source: "10.255.55.2:40000".parse().unwrap(),
        destination: "192.0.2.9:443".parse().unwrap(),
        rule: Some(RuleId(7)),
    };
    assert_eq!((events.as_slice(), lost), ([expected].as_slice(), 0));
    assert_eq!(observer.take(0, 10), (Vec::new(), 0));
}

#[test]
fn nothing_is_recorded_when_nobody_observes() {
    let log = EventLog::default();
    let record = |port| {
        log.record(&ALL, 0, EventKind::EgressDenied, &subject(&key(TCP, 1), port));
    };
    record(1);
    assert!(log.recorder.get().is_none(), "no memory is claimed either");
    drop(log.observe());
    record(2);
    let observer = log.observe();
    record(3);
    let (events, _) = observer.take(0, 10);
    assert_eq!(events.iter().map(|event| event.port.0).collect::<Vec<_>>(), [3]);
}

#[test]
fn refusals_and_udp_have_the_kernel_stacks_rates_and_other_conversations_none() {
    for kind in [EventKind::EgressDenied, EventKind::OverlayDenied] {
        let log = EventLog::default();
        for second in 0..3 {
            assert_eq!(recorded(&log, &ALL, second * SECOND, kind, TCP, 50), 1);
            assert_eq!(recorded(&log, &ALL, second * SECOND + SECOND / 2, kind, UDP, 50), 0);
        }
    }
    for kind in [EventKind::EgressAllowed, EventKind::OverlayAllowed] {
        let log = EventLog::default();
        assert_eq!(recorded(&log, &ALL, 0, kind, UDP, 500), 100);
        assert_eq!(recorded(&log, &ALL, SECOND / 10, kind, UDP, 500), 10);
        assert_eq!(recorded(&log, &ALL, SECOND / 10, kind, TCP, 500), 500);
        assert_eq!(recorded(&log, &ALL, SECOND / 10, kind, 1, 500), 500);
    }
}

#[test]
fn only_what_is_asked_for_is_recorded() {
    let silent = Logging::default();
    let log = EventLog::default();
    let kinds = [
        EventKind::EgressAllowed,
        EventKind::EgressDenied,
        EventKind::OverlayAllowed,
        EventKind::OverlayDenied,
        EventKind::ConnectionLimited { enforced: true },
        EventKind::ConnectionLimited { enforced: false },
    ];
    let wanted = |logging: &Logging| {
        kinds.map(|kind| is_recorded(logging, kind)).iter().filter(|is| **is).count()
    };
    assert_eq!(wanted(&silent), 0);
    assert_eq!(wanted(&Logging { egress: true, ..silent }), 2);
    assert_eq!(wanted(&Logging { overlay: true, ..silent }), 2);
    for kind in kinds {
        assert_eq!(recorded(&log, &silent, 0, kind, TCP, 1), 0);
    }
    // A rule or a limit that asks is heard, within the same rates.
    let observer = log.observe();
    let key = key(TCP, 1);
    for kind in [EventKind::EgressAllowed, EventKind::ConnectionLimited { enforced: false }] {
        for _ in 0..3 {
            log.record(&silent, 0, kind, &Subject { asked: true, ..subject(&key, 2) });
        }
    }
    assert_eq!(observer.take(0, 10).0.len(), 3 + 1);
}

#[test]
fn what_does_not_fit_is_counted() {
    let log = EventLog::default();
    let observer = log.observe();
    let key = key(TCP, 1);
    for _ in 0..WAITING + 7 {
        log.record(&ALL, 0, EventKind::EgressAllowed, &subject(&key, 2));
    }
    let (first, lost) = observer.take(0, 100);
    assert_eq!((first.len(), lost), (100, 7));
    let (rest, lost) = observer.take(0, usize::MAX);
    assert_eq!((rest.len(), lost), (WAITING - 100, 0));
}

#[test]
fn every_observer_gets_everything_and_a_slow_one_holds_nobody_up() {
    let log = EventLog::default();
    let (slow, quick) = (log.observe(), log.observe());
    let key = key(TCP, 1);
    let rounds = WAITING_FOR_ONE / WAITING + 1;
    for round in 0..rounds {
        for _ in 0..WAITING {
            log.record(&ALL, round as u64, EventKind::EgressAllowed, &subject(&key, 2));
        }
        let (events, lost) = quick.take(0, usize::MAX);
        assert_eq!((events.len(), lost), (WAITING, 0));
    }
    let (events, lost) = slow.take(0, usize::MAX);
    assert_eq!((events.len(), lost), (WAITING_FOR_ONE, WAITING as u64));
    drop(slow);
    log.record(&ALL, 0, EventKind::EgressAllowed, &subject(&key, 2));
    assert_eq!(quick.take(0, 10).0.len(), 1);
}

#[test]
fn workers_that_record_at_once_lose_nothing_uncounted() {
    let log = Arc::new(EventLog::default());
    let observer = log.observe();
    let each = 20_000_u64;
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let key = key(TCP, worker);
                for at in 0..each {
                    log.record(&ALL, at, EventKind::EgressAllowed, &subject(&key, worker));
                }
            })
        })
        .collect();
    let (mut last, mut count) = ([None; 4], 0);
    loop {
        let done = workers.iter().all(thread::JoinHandle::is_finished);
        let (events, lost) = observer.take(0, 1_000);
        count += events.len() as u64 + lost;
        for event in &events {
            let before = last[usize::from(event.port.0)].replace(event.at_ns);
            assert!(before < Some(event.at_ns), "events of one worker stay in order");
        }
        if done && events.is_empty() {
            break;
        }
    }
    for worker in workers {
        worker.join().unwrap();
    }
    assert_eq!(count, 4 * each);
}
