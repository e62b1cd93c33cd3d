//! All scenarios, in the order they run. Bars are those of the design: the least for a release,
//! and the goal.

use super::{Bar, Better, Measure, Row, Scenario, Sides, Work};
use crate::load::Transport;
use crate::loading::{Loading, Shared};
use crate::side::{Direction, Span};

/// UDP payload bytes of a 60-byte frame, which is 64 on the wire.
pub(super) const SMALL: u16 = 18;
/// UDP payload bytes that fill a packet.
const LARGE: u16 = 1_400;

const fn ratio(release: f64, goal: f64) -> Bar {
    Bar { of: Measure::Ratio, release, goal }
}

const fn value(release: f64, goal: f64) -> Bar {
    Bar { of: Measure::Value, release, goal }
}

const fn row(unit: &'static str, better: Better, bar: Option<Bar>) -> Row {
    Row { suffix: "", title: "", unit, better, bar }
}

/// A bulk transfer's number.
macro_rules! gbit {
    ($bar:expr) => {
        &[row("Gbit/s", Better::Higher, $bar)]
    };
}

macro_rules! kpps {
    ($bar:expr) => {
        &[row("kpps", Better::Higher, $bar)]
    };
}

/// Latency's three numbers.
macro_rules! latency {
    ($p50:expr, $p99:expr) => {
        &[
            Row {
                suffix: "-p50",
                title: "half of all",
                unit: "us",
                better: Better::Lower,
                bar: Some($p50),
            },
            Row {
                suffix: "-p99",
                title: "99 %",
                unit: "us",
                better: Better::Lower,
                bar: Some($p99),
            },
            Row { suffix: "-p99.9", title: "99.9 %", unit: "us", better: Better::Lower, bar: None },
        ]
    };
}

const fn scenario(
    id: &'static str,
    title: &'static str,
    work: Work,
    sides: Sides,
    loading: Loading,
    rows: &'static [Row],
) -> Scenario {
    Scenario { id, title, work, sides, loading, rows }
}

const fn iperf3(streams: u8, span: Span) -> Work {
    Work::Iperf3 { streams, span, direction: Direction::There }
}

const fn threads(streams: u8, span: Span) -> Work {
    Work::Tcp { streams, span }
}

const fn ask(transport: Transport, busy: bool) -> Work {
    Work::RequestResponse { transport, busy }
}

use Loading as L;
use Sides::{Ours, Three, Two};
use Span::{CrossCell, Mapped, Outside, SameCell};

const FEW: L = L::BASE;
const OWN: L = L { world: Shared::Changes, ..L::BASE };
const FLOWS: Work = Work::Flows { span: CrossCell };
const FLOWS_OUT: Work = Work::Flows { span: Outside };
const CONNECTIONS: Work = Work::Connections { span: CrossCell };
const CONNECTIONS_OUT: Work = Work::Connections { span: Outside };
const BACK: Work = Work::Iperf3 { streams: 1, span: Outside, direction: Direction::Back };
const UDP: Work = Work::Udp { size: SMALL };
const RULES_COST: Work = Work::RulesCost { size: SMALL };

/// All of them.
#[rustfmt::skip]
pub(crate) const ALL: &[Scenario] = &[
    scenario("tcp-1", "bulk TCP to the other cell, 1 stream", iperf3(1, CrossCell), Three, FEW, gbit!(Some(ratio(0.8, 1.1)))),
    scenario("tcp-4", "bulk TCP to the other cell, 4 streams", iperf3(4, CrossCell), Three, FEW, gbit!(Some(ratio(0.6, 1.0)))),
    scenario("tcp-16", "bulk TCP to the other cell, 16 streams", iperf3(16, CrossCell), Three, FEW, gbit!(None)),
    scenario("tcp-local", "bulk TCP on the same cell, 1 stream", iperf3(1, SameCell), Three, FEW, gbit!(Some(ratio(0.9, 1.2)))),
    scenario("tcp-local-4", "bulk TCP on the same cell, 4 streams", iperf3(4, SameCell), Three, FEW, gbit!(Some(ratio(0.7, 1.0)))),
    scenario("tcp-4-threads", "bulk TCP to the other cell, 4 streams, 4 threads", threads(4, CrossCell), Three, FEW, gbit!(None)),
    scenario("tcp-local-4-threads", "bulk TCP on the same cell, 4 streams, 4 threads", threads(4, SameCell), Three, FEW, gbit!(None)),
    scenario("udp-64", "64-byte frames to the other cell, received under overload", UDP, Three, FEW, kpps!(Some(ratio(2.0, 5.0)))),
    scenario("udp-1400", "datagrams of 1,400 bytes to the other cell, received under overload", Work::Udp { size: LARGE }, Three, FEW, kpps!(None)),
    scenario("udp-64-lossfree", "64-byte frames to the other cell, highest rate without loss", Work::LossFree { size: SMALL }, Three, FEW, kpps!(None)),
    scenario("rr-tcp", "request and response by TCP", ask(Transport::Tcp, false), Three, FEW, latency!(ratio(0.8, 0.4), ratio(1.0, 0.6))),
    scenario("rr-udp", "request and response by UDP", ask(Transport::Udp, false), Three, FEW, latency!(ratio(0.8, 0.4), ratio(1.0, 0.6))),
    scenario("rr-tcp-busy", "request and response by TCP, all cores busy", ask(Transport::Tcp, true), Three, FEW, latency!(ratio(2.0, 1.2), ratio(2.0, 1.2))),
    scenario("flows-10", "new conversations to the other cell, a datagram each, 10 rules", FLOWS, Two, L::flows(10), &[row("flows/s", Better::Higher, Some(ratio(0.8, 1.5)))]),
    scenario("flows-1k", "new conversations to the other cell, a datagram each, 1,000 rules", FLOWS, Two, L::flows(1_000), &[row("flows/s", Better::Higher, Some(ratio(2.0, 5.0)))]),
    scenario("flows-10k", "new conversations to the other cell, a datagram each, 10,000 rules", FLOWS, Two, L::flows(10_000), &[row("flows/s", Better::Higher, Some(ratio(20.0, 30.0)))]),
    scenario("cps-10", "whole TCP connections to the other cell with their sockets, 10 rules", CONNECTIONS, Two, L::rules(10), &[row("connections/s", Better::Higher, None)]),
    scenario("cps-1k", "whole TCP connections to the other cell with their sockets, 1,000 rules", CONNECTIONS, Two, L::rules(1_000), &[row("connections/s", Better::Higher, None)]),
    scenario("cps-10k", "whole TCP connections to the other cell with their sockets, 10,000 rules", CONNECTIONS, Two, L::rules(10_000), &[row("connections/s", Better::Higher, None)]),
    scenario("rules-10", "64-byte frames of one conversation, 10 rules", UDP, Two, L::rules(10), kpps!(None)),
    scenario("rules-1k", "64-byte frames of one conversation, 1,000 rules", UDP, Two, L::rules(1_000), kpps!(None)),
    scenario("rules-10k", "64-byte frames of one conversation, 10,000 rules", UDP, Two, L::rules(10_000), kpps!(None)),
    scenario("rules-50k", "64-byte frames of one conversation, 50,000 rules", UDP, Two, L::rules(50_000), kpps!(None)),
    scenario("rules-cost", "a packet at 50,000 rules costs more than at 10 by", RULES_COST, Two, L::rules(50_000), &[row("%", Better::Lower, Some(value(3.0, 1.0)))]),
    scenario("containers-1", "64-byte frames of one conversation, 2,000 rules for 1 container", UDP, Two, L::containers(1), kpps!(None)),
    scenario("containers-10", "64-byte frames of one conversation, 2,000 rules for 10 containers", UDP, Two, L::containers(10), kpps!(None)),
    scenario("containers-100", "64-byte frames of one conversation, 2,000 rules for 100 containers", UDP, Two, L::containers(100), kpps!(Some(ratio(5.0, 10.0)))),
    scenario("containers-250", "64-byte frames of one conversation, 2,000 rules for 250 containers", UDP, Two, L::containers(250), kpps!(None)),
    scenario("snat-tcp", "bulk TCP through source NAT, 1 stream to the outside", iperf3(1, Outside), Two, L::OUTSIDE, gbit!(Some(ratio(0.7, 1.0)))),
    scenario("snat-tcp-back", "bulk TCP through source NAT, 1 stream from the outside", BACK, Two, L::OUTSIDE, gbit!(Some(ratio(0.7, 1.0)))),
    scenario("dnat-tcp", "bulk TCP through a mapped port, 1 stream from the outside", iperf3(1, Mapped), Two, L::OUTSIDE, gbit!(Some(ratio(0.7, 1.0)))),
    scenario("snat-cps", "whole TCP connections through source NAT with their sockets, closed by the client", CONNECTIONS_OUT, Two, L::OUTSIDE.full(), &[row("connections/s", Better::Higher, Some(ratio(1.0, 1.5)))]),
    scenario("snat-flows", "new conversations through source NAT, a datagram each", FLOWS_OUT, Two, L::OUTSIDE.full(), &[row("flows/s", Better::Higher, Some(ratio(1.0, 1.5)))]),
    scenario("asg-10k", "new conversations to the outside, a datagram each, security group of 10,000 rules", FLOWS_OUT, Two, L::group(10_000).full(), &[row("flows/s", Better::Higher, Some(ratio(10.0, 30.0)))]),
    scenario("asg-10k-cps", "whole TCP connections through source NAT with their sockets, security group of 10,000 rules", CONNECTIONS_OUT, Two, L::group(10_000).full(), &[row("connections/s", Better::Higher, None)]),
    scenario("policy-apply", "putting rules in force", Work::PolicyApply, Two, OWN, &[
        Row { suffix: "-50k", title: "50,000 at once", unit: "ms", better: Better::Lower, bar: Some(value(100.0, 35.0)) },
        Row { suffix: "-1", title: "one more at 50,000", unit: "ms", better: Better::Lower, bar: Some(value(1.0, 0.08)) },
    ]),
    scenario("idle", "processor time of a cell without traffic", Work::Idle, Ours, FEW, &[row("% of a core", Better::Lower, Some(value(0.5, 0.1)))]),
    scenario("memory", "memory for a million conversations", Work::Memory, Ours, OWN, &[row("MB", Better::Lower, Some(value(160.0, 100.0)))]),
    scenario("flows-snat", "memory for a million conversations through source NAT", Work::Translations, Ours, L::OUTSIDE.changed(), &[row("MB", Better::Lower, Some(value(160.0, 100.0)))]),
    scenario("soak-snat", "connections through source NAT, opened and closed for all the time", Work::Soak, Ours, L::OUTSIDE.changed(), &[
        row("connections/s", Better::Higher, None),
        Row { suffix: "-flows", title: "left of them when all have been closed for long", unit: "flows", better: Better::Lower, bar: Some(value(0.0, 0.0)) },
        Row { suffix: "-memory", title: "memory that the dataplane keeps", unit: "MB", better: Better::Lower, bar: Some(value(8.0, 1.0)) },
    ]),
    scenario("restart", "silence while the dataplane is killed and started again", Work::Restart, Ours, OWN, &[row("ms", Better::Lower, Some(value(500.0, 50.0)))]),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique() {
        let ids: Vec<_> = ALL
            .iter()
            .flat_map(|s| s.rows.iter().map(|row| format!("{}{}", s.id, row.suffix)))
            .collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn goals_are_beyond_the_bars() {
        for row in ALL.iter().flat_map(|s| s.rows) {
            let Some(bar) = row.bar else { continue };
            assert_eq!(bar.goal > bar.release, row.better == Better::Higher, "{row:?}");
        }
    }
}
