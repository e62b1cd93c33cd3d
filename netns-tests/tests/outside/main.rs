//! What apps see of the outside, and the outside of them: security groups, address translation,
//! mapped ports, the cell itself, limits, and what is recorded of it. Every check is written once
//! and runs on Sarcenet cells, with both ways of attaching containers and both of the uplink, and on
//! kernel cells, to show that it asks for what the kernel stack does. The numbers are
//! those of the list of user-visible behaviours (contract section 15).
#![forbid(unsafe_code)]

mod case;
mod cell;
mod forgery;
mod groups;
mod limits;
mod mappings;
mod records;
mod translation;

use std::sync::{LazyLock, Mutex, PoisonError};

use sarcenet_rig::outside::ConnectionLimit;
use sarcenet_rig::{AttachKind, Backend, CellKind, OutsidePlan, Plan, UplinkMode, World};

/// What the cells of a world are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    cells: CellKind,
    attach: AttachKind,
    uplink: UplinkMode,
    /// Whether conversations are recorded, and connections over the limit nothing else.
    recorded: bool,
}

impl Kind {
    const fn new(cells: CellKind) -> Self {
        Self { cells, attach: AttachKind::Tun, uplink: UplinkMode::Udp, recorded: false }
    }

    const fn attach(self, attach: AttachKind) -> Self {
        Self { attach, ..self }
    }

    const fn uplink(self, uplink: UplinkMode) -> Self {
        Self { uplink, ..self }
    }

    const fn recorded(self) -> Self {
        Self { recorded: true, ..self }
    }

    fn plan(self) -> Plan {
        let connections = Some(ConnectionLimit {
            burst: limits::BURST,
            per_second: 1,
            logging: true,
            dry_run: self.recorded,
        });
        Plan::new("o", &[self.cells, self.cells])
            .attach(self.attach)
            .uplink(self.uplink)
            .outside(OutsidePlan { connections, logging: self.recorded, ..OutsidePlan::default() })
    }
}

/// A world that all tests of one kind share. It is removed when the test process ends.
///
/// Tests keep out of each other's way by taking apps, containers, spaces, and addresses and ports
/// outside of their own.
fn world(kind: Kind) -> &'static World {
    static WORLDS: LazyLock<Mutex<Vec<(Kind, &'static World)>>> = LazyLock::new(Mutex::default);
    // A test that failed to build a world says so itself; the next one tries again.
    let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, world)) = worlds.iter().find(|(found, _)| *found == kind) {
        return world;
    }
    let world = World::new(kind.plan()).unwrap_or_else(|error| panic!("{error:#}"));
    let world: &'static World = Box::leak(Box::new(world));
    worlds.push((kind, world));
    world
}

/// Sarcenet cells.
const OURS: Kind = Kind::new(CellKind::Sarcenet);
/// Kernel cells.
const KERNEL: Kind = Kind::new(CellKind::KERNEL);
/// The same with iptables on nftables.
const KERNEL_NFT: Kind = Kind::new(CellKind::Kernel(Backend::Nft));

/// One test per behaviour and kind of world.
macro_rules! behaviours {
    (plain { $($name:ident: $check:path,)+ } recorded { $($recorded:ident: $look:path,)+ }) => {
        behaviours!(@kind tun_udp, OURS, { $($name: $check,)+ } { $($recorded: $look,)+ });
        behaviours!(@kind tun_xdp, OURS.uplink(UplinkMode::Xdp),
            { $($name: $check,)+ } { $($recorded: $look,)+ });
        behaviours!(@kind veth_udp, OURS.attach(AttachKind::Veth),
            { $($name: $check,)+ } { $($recorded: $look,)+ });
        behaviours!(@kind veth_xdp, OURS.attach(AttachKind::Veth).uplink(UplinkMode::Xdp),
            { $($name: $check,)+ } { $($recorded: $look,)+ });
        behaviours!(@kind kernel, KERNEL, { $($name: $check,)+ } { $($recorded: $look,)+ });
        behaviours!(@kind kernel_nft, KERNEL_NFT, { $($name: $check,)+ } { $($recorded: $look,)+ });
    };
    (@kind $module:ident, $kind:expr,
     { $($name:ident: $check:path,)+ } { $($recorded:ident: $look:path,)+ }) => {
        mod $module {
            use super::*;

            const KIND: Kind = $kind;

            $(
                #[test]
                fn $name() {
                    case::run(KIND, $check);
                }
            )+
            $(
                #[test]
                fn $recorded() {
                    case::run(KIND.recorded(), $look);
                }
            )+
        }
    };
}

behaviours! {
    plain {
        b09_security_groups_do_not_open_the_overlay: groups::do_not_open_the_overlay,
        b10_policies_do_not_open_the_way_out: groups::policies_do_not_open_the_way_out,
        b12_staging_has_groups_of_its_own: groups::staging_has_its_own,
        b13_a_group_takes_effect_at_once: groups::take_effect_at_once,
        b14_a_group_that_goes_leaves_conversations: groups::leave_conversations_when_they_go,
        b16_icmp_types_and_codes: groups::icmp_types_are_exact,
        b17_lists_and_ranges: groups::lists_and_ranges_are_honoured,
        b18_denied_networks_come_first: groups::denied_networks_come_first,
        b19_refusals_are_rejects: groups::refuse_with_port_unreachable,
        b20_mapped_ports: mappings::lead_to_the_container,
        b20_mapped_ports_keep_their_bytes: mappings::carry_every_byte,
        b21_no_way_round_by_the_own_cell: mappings::are_closed_to_the_own_cells_containers,
        b22_the_cell_itself_is_protected: cell::is_protected,
        b22_services_of_the_cell: cell::offers_its_services_alone,
        b23_dns_through_the_cell: cell::answers_for_dns,
        b25_outside_sees_the_cells_address: translation::hides_containers,
        b25_not_masqueraded_networks: translation::leaves_some_networks_alone,
        b25_two_containers_from_one_port: translation::keeps_containers_apart,
        b25_ping_through_the_cell: translation::carries_echo,
        b25_traceroute_through_the_cell: translation::carries_errors_of_routers,
        b26_path_mtu_through_the_cell: translation::carries_path_mtu,
        b26_fragments_through_the_cell: translation::carries_fragments,
        b27_bandwidth: limits::bandwidth_is_kept,
        b28_connections: limits::connections_are_limited,
        b31_spoofed_sources_stay_in: forgery::spoofed_sources_stay_in,
        b32_tunnel_packets_of_containers: forgery::tunnel_packets_are_ordinary_traffic,
    }
    recorded {
        b28_dry_run_only_records: records::a_dry_run_refuses_nothing,
        b29_records_between_apps: records::between_apps,
        b30_records_of_the_way_out: records::on_the_way_out,
    }
}
