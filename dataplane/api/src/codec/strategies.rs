//! Any message, for property tests.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    Attach, Cell, ConnectionLimit, Container, DropReason, Drops, EgressRule, EgressSet, Event,
    EventKind, FlowEnd, FlowInfo, FlowState, FlowTableStatus, HostService, LinkStatus, Logging,
    Mapping, Outside, Peer, PortId, PortInfo, PortRange, Protocol, Rate, Reply, Request, Revoke,
    Role, Rule, RuleId, RuleKey, SetId, Settings, Status, Timeouts, TraceFilter, TraceStep,
    Tracking, Traffic, Update, UplinkMode, Walk, WorkerStatus,
};

fn net() -> impl Strategy<Value = Ipv4Net> {
    (any::<Ipv4Addr>(), 0..=32_u8).prop_map(|(address, prefix)| {
        Ipv4Net::new(address, prefix).expect("prefixes up to 32 are valid")
    })
}

fn socket() -> impl Strategy<Value = SocketAddrV4> {
    any::<(Ipv4Addr, u16)>().prop_map(|(address, port)| SocketAddrV4::new(address, port))
}

fn cell() -> impl Strategy<Value = Cell> {
    let revoke = select(vec![Revoke::Drain, Revoke::Immediate]);
    let uplink = select(UplinkMode::ALL.to_vec());
    let numbers = any::<(Ipv4Addr, u32, u16, u16, bool)>();
    let followed = (logging(), tracking(), any::<(u16, bool)>());
    (numbers, net(), net(), revoke, uplink, option::of(outside()), followed).prop_map(
        |(
            (underlay, vni, tunnel_port, mtu, host),
            subnet,
            overlay,
            revoke,
            uplink,
            outside,
            (logging, tracking, (tag, open)),
        )| Cell {
            underlay,
            subnet,
            overlay,
            vni,
            tunnel_port,
            mtu,
            revoke,
            uplink,
            host,
            outside,
            logging,
            tracking,
            tag,
            open,
        },
    )
}

fn ports() -> impl Strategy<Value = PortRange> {
    any::<(u16, u16)>().prop_map(|(first, last)| PortRange { first, last })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn outside() -> impl Strategy<Value = Outside> {
    let service = (any::<(Ipv4Addr, u16)>(), protocol())
        .prop_map(|((address, port), protocol)| HostService { address, protocol, port });
    (
        option::of(ports()),
        any::<u32>(),
        vec(net(), 0..3),
        any::<Vec<Ipv4Addr>>(),
        vec(service, 0..3),
    )
        .prop_map(|(snat_ports, snat_per_container, not_masqueraded, local, services)| {
            Outside { snat_ports, snat_per_container, not_masqueraded, local, services }
        })
}

fn logging() -> impl Strategy<Value = Logging> {
    any::<(bool, bool, u32, u32)>().prop_map(
        |(overlay, egress, denied_per_second, accepted_udp_per_second)| Logging {
            overlay,
            egress,
            denied_per_second,
            accepted_udp_per_second,
        },
    )
}

fn tracking() -> impl Strategy<Value = Tracking> {
    let timeouts = vec(any::<u32>(), Timeouts::NAMES.len()).prop_map(|seconds| {
        let mut timeouts = Timeouts::default();
        for (name, seconds) in Timeouts::NAMES.iter().zip(seconds) {
            if let Some(timeout) = timeouts.named_mut(name) {
                *timeout = seconds;
            }
        }
        timeouts
    });
    (timeouts, any::<u8>())
        .prop_map(|(timeouts, half_open_percent)| Tracking { timeouts, half_open_percent })
}

fn egress_set() -> impl Strategy<Value = EgressSet> {
    let traffic = prop_oneof![
        Just(Traffic::All),
        ports().prop_map(Traffic::Tcp),
        ports().prop_map(Traffic::Udp),
        any::<(Option<u8>, Option<u8>)>().prop_map(|(kind, code)| Traffic::Icmp { kind, code }),
    ];
    let rule = (any::<(u32, Ipv4Addr, Ipv4Addr, bool)>(), traffic).prop_map(
        |((id, first, last, log), traffic)| EgressRule {
            id: RuleId(id),
            first,
            last,
            traffic,
            log,
        },
    );
    (any::<(u32, u32)>(), vec(rule, 0..6)).prop_map(|((id, from), rules)| EgressSet {
        id: SetId(id),
        from,
        rules,
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let mapping = (protocol(), ports(), any::<u16>())
        .prop_map(|(protocol, cell, container)| Mapping { protocol, cell, container });
    let rate = || {
        option::of(
            any::<(u64, u64)>()
                .prop_map(|(bits_per_second, burst_bits)| Rate { bits_per_second, burst_bits }),
        )
    };
    let connections =
        any::<(u32, u32, bool, bool)>().prop_map(|(per_second, burst, dry_run, log)| {
            ConnectionLimit { per_second, burst, dry_run, log }
        });
    (
        any::<(u16, Option<u32>, Option<u32>)>(),
        vec(mapping, 0..4),
        rate(),
        rate(),
        option::of(connections),
    )
        .prop_map(|((port, denied, allowed), mappings, send, receive, connections)| Settings {
            port: PortId(port),
            denied: denied.map(SetId),
            allowed: allowed.map(SetId),
            mappings,
            send,
            receive,
            connections,
        })
}

fn peer() -> impl Strategy<Value = Peer> {
    (net(), any::<Ipv4Addr>(), any::<[u8; 6]>()).prop_map(|(subnet, underlay, mac)| Peer {
        subnet,
        underlay,
        mac,
    })
}

fn container() -> impl Strategy<Value = Container> {
    let veth = any::<([u8; 6], [u8; 6])>()
        .prop_map(|(container, gateway)| Attach::Veth { container, gateway });
    let attach = prop_oneof![Just(Attach::Tun), veth];
    (any::<(u16, Ipv4Addr, u16, String)>(), attach).prop_map(
        |((port, address, tag, name), attach)| Container {
            port: PortId(port),
            address,
            tag,
            name,
            attach,
        },
    )
}

fn rule_key() -> impl Strategy<Value = RuleKey> {
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    (any::<(u16, Ipv4Addr, u16, u16)>(), protocol).prop_map(
        |((source, destination, first, last), protocol)| RuleKey {
            source,
            destination,
            protocol,
            ports: PortRange { first, last },
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    (any::<u32>(), rule_key()).prop_map(|(id, key)| Rule { id: RuleId(id), key })
}

pub(crate) fn update() -> impl Strategy<Value = Update> {
    (
        any::<u64>(),
        option::of(cell()),
        vec(peer(), 0..4),
        vec(net(), 0..4),
        vec(container(), 0..4),
        vec(any::<u16>().prop_map(PortId), 0..4),
        vec(rule(), 0..8),
        vec(rule_key(), 0..8),
        vec(egress_set(), 0..3),
        vec(any::<u32>().prop_map(SetId), 0..3),
        vec(settings(), 0..3),
    )
        .prop_map(
            |(
                generation,
                cell,
                peers,
                peers_gone,
                containers,
                containers_gone,
                rules,
                rules_gone,
                egress,
                egress_gone,
                settings,
            )| {
                Update {
                    generation,
                    cell,
                    peers,
                    peers_gone,
                    containers,
                    containers_gone,
                    rules,
                    rules_gone,
                    egress,
                    egress_gone,
                    settings,
                }
            },
        )
}

fn filter() -> impl Strategy<Value = TraceFilter> {
    (option::of(net()), option::of(net()), any::<(Option<u8>, Option<u16>, bool)>()).prop_map(
        |(from, to, (protocol, port, drops_only))| TraceFilter {
            from,
            to,
            protocol,
            port,
            drops_only,
        },
    )
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let role = select(vec![Role::Controller, Role::Observer]);
    prop_oneof![
        (any::<u32>(), role).prop_map(|(version, role)| Request::Hello { version, role }),
        Just(Request::SnapshotBegin),
        Just(Request::SnapshotEnd),
        update().prop_map(|update| Request::Update(Box::new(update))),
        any::<Option<u16>>().prop_map(|after| Request::Ports { after: after.map(PortId) }),
        Just(Request::Status),
        any::<(u64, u32)>().prop_map(|(cursor, limit)| Request::Flows { cursor, limit }),
        filter().prop_map(Request::Trace),
        Just(Request::Host),
        Just(Request::Events),
        any::<Option<u16>>().prop_map(|after| Request::Links { after: after.map(PortId) }),
    ]
}

fn reason() -> impl Strategy<Value = DropReason> {
    select(DropReason::ALL)
}

fn end() -> impl Strategy<Value = FlowEnd> {
    prop_oneof![
        Just(FlowEnd::Host),
        any::<u16>().prop_map(|port| FlowEnd::Container(PortId(port))),
        any::<Ipv4Addr>().prop_map(FlowEnd::Tunnel),
    ]
}

fn state() -> impl Strategy<Value = FlowState> {
    use FlowState::{Closed, Established, FinWait, New, SynReceived, SynSent, TimeWait};
    select(vec![New, SynSent, SynReceived, Established, FinWait, TimeWait, Closed])
}

fn flow() -> impl Strategy<Value = FlowInfo> {
    (
        any::<(u8, u16, Option<u32>, u32, u32)>(),
        (socket(), socket(), end(), end()),
        state(),
        any::<([u64; 2], [u64; 2])>(),
        option::of(socket()),
    )
        .prop_map(
            |(
                (protocol, tag, rule, generation, idle_s),
                (source, destination, from, to),
                state,
                (packets, bytes),
                nat,
            )| FlowInfo {
                protocol,
                source,
                destination,
                from,
                to,
                tag,
                state,
                rule: rule.map(RuleId),
                generation,
                idle_s,
                packets,
                bytes,
                nat,
            },
        )
}

fn link() -> impl Strategy<Value = LinkStatus> {
    any::<(String, Option<u16>, String, u16, Vec<u16>, [u64; 4], u64)>().prop_map(
        |(name, port, mode, mtu, readers, [rx_packets, rx_bytes, tx_packets, tx_bytes], errors)| {
            LinkStatus {
                name,
                port: port.map(PortId),
                mode,
                mtu,
                readers,
                rx_packets,
                rx_bytes,
                tx_packets,
                tx_bytes,
                errors,
            }
        },
    )
}

fn status() -> impl Strategy<Value = Status> {
    let worker = any::<(u16, Option<u16>, String, u32, [u64; 4])>().prop_map(
        |(worker, cpu, pool, links, n)| {
            let [sleeps, batches, packets, acks_merged] = n;
            WorkerStatus { worker, cpu, pool, links, sleeps, batches, packets, acks_merged }
        },
    );
    let drops = (reason(), any::<u64>()).prop_map(|(reason, packets)| Drops { reason, packets });
    let flows =
        any::<[u64; 6]>().prop_map(|[used, capacity, created, expired, evicted, replaced]| {
            FlowTableStatus { used, capacity, created, expired, evicted, replaced }
        });
    (
        any::<String>(),
        any::<[u64; 7]>(),
        vec(drops, 0..4),
        flows,
        vec(link(), 0..3),
        vec(worker, 0..3),
    )
        .prop_map(|(program, n, drops, flows, links, workers)| Status {
            program,
            uptime_s: n[0],
            generation: n[1],
            transmitted: n[2],
            answered: n[3],
            answers_suppressed: n[4],
            drops,
            flows,
            rules: n[5],
            peers: n[6],
            links,
            workers,
        })
}

fn step() -> impl Strategy<Value = TraceStep> {
    let rule = any::<Option<u32>>().prop_map(|rule| rule.map(RuleId));
    prop_oneof![
        (end(), any::<(u32, Option<u16>)>())
            .prop_map(|(from, (len, segment))| TraceStep::Received { from, len, segment }),
        any::<(Option<u16>, u32)>().prop_map(|(tag, vni)| TraceStep::Decapsulated { tag, vni }),
        (any::<(u8, u8)>(), socket(), socket()).prop_map(
            |((protocol, tcp_flags), source, destination)| TraceStep::Parsed {
                protocol,
                source,
                destination,
                tcp_flags
            }
        ),
        (state(), any::<bool>(), rule.clone())
            .prop_map(|(state, forward, rule)| TraceStep::FlowHit { state, forward, rule }),
        any::<bool>().prop_map(|stale| TraceStep::FlowMiss { stale }),
        Just(TraceStep::SourceChecked),
        end().prop_map(|to| TraceStep::Routed { to }),
        (any::<u16>(), rule).prop_map(|(tag, rule)| TraceStep::Policy { tag, rule }),
        any::<(Option<u32>, Option<u32>)>().prop_map(|(denied, allowed)| TraceStep::Egress {
            denied: denied.map(RuleId),
            allowed: allowed.map(RuleId)
        }),
        Just(TraceStep::FlowCreated),
        (option::of(socket()), option::of(socket()))
            .prop_map(|(source, destination)| TraceStep::Translated { source, destination }),
        any::<(Ipv4Addr, u16)>().prop_map(|(peer, tag)| TraceStep::Encapsulated { peer, tag }),
        end().prop_map(|to| TraceStep::Transmitted { to }),
        any::<(u8, u8)>()
            .prop_map(|(icmp_type, icmp_code)| TraceStep::Answered { icmp_type, icmp_code }),
        reason().prop_map(|reason| TraceStep::Dropped { reason }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        select(vec![
            EventKind::EgressAllowed,
            EventKind::EgressDenied,
            EventKind::OverlayAllowed,
            EventKind::OverlayDenied,
        ]),
        any::<bool>().prop_map(|enforced| EventKind::ConnectionLimited { enforced }),
    ];
    (kind, any::<(u64, u16, Ipv4Addr, u16, u8, Option<u32>)>(), socket(), socket()).prop_map(
        |(kind, (at_ns, port, container, tag, protocol, rule), source, destination)| Event {
            at_ns,
            kind,
            port: PortId(port),
            container,
            tag,
            protocol,
            source,
            destination,
            rule: rule.map(RuleId),
        },
    )
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    let port = any::<(u16, Ipv4Addr)>()
        .prop_map(|(port, address)| PortInfo { port: PortId(port), address });
    let walk = (any::<(u64, u16)>(), vec(step(), 0..6)).prop_map(|((at_ns, worker), steps)| Walk {
        at_ns,
        worker,
        steps,
    });
    prop_oneof![
        any::<(u32, u64)>().prop_map(|(version, generation)| Reply::Hello { version, generation }),
        any::<u64>().prop_map(|generation| Reply::Ack { generation }),
        any::<String>().prop_map(|message| Reply::Error { message }),
        (vec(port, 0..4), any::<bool>()).prop_map(|(ports, more)| Reply::Ports { ports, more }),
        status().prop_map(|status| Reply::Status(Box::new(status))),
        (vec(flow(), 0..4), any::<Option<u64>>())
            .prop_map(|(flows, next)| Reply::Flows { flows, next }),
        (vec(walk, 0..4), any::<u64>()).prop_map(|(walks, lost)| Reply::Walks { walks, lost }),
        any::<bool>().prop_map(|held| Reply::Host { held }),
        (vec(event(), 0..4), any::<u64>())
            .prop_map(|(events, lost)| Reply::Events { events, lost }),
        (vec(link(), 0..4), any::<bool>()).prop_map(|(links, more)| Reply::Links { links, more }),
    ]
}
