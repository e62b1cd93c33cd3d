//! What apps see of the network, on every pair of cells: Sarcenet with Sarcenet, Sarcenet with a
//! kernel cell, both with every way of attaching containers and every mode of the uplink, and - to
//! show that the tests ask for what the kernel stack does - two kernel cells. Each behaviour is
//! looked at from the first cell to the second, back, and within each. The numbers are those of the
//! list of user-visible behaviours (contract section 15).
#![forbid(unsafe_code)]

mod case;
mod egress;
mod forgery;
mod mtu;
mod policy;

use std::sync::{LazyLock, Mutex};

use sarcenet_rig::{AttachKind, CellKind, Plan, UplinkMode, World};

/// What the cells of a world are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    cells: [CellKind; 2],
    attach: AttachKind,
    uplink: UplinkMode,
}

impl Kind {
    const fn new(cells: [CellKind; 2]) -> Self {
        Self { cells, attach: AttachKind::Tun, uplink: UplinkMode::Auto }
    }

    const fn attach(self, attach: AttachKind) -> Self {
        Self { attach, ..self }
    }

    const fn uplink(self, uplink: UplinkMode) -> Self {
        Self { uplink, ..self }
    }

    fn plan(self) -> Plan {
        let plan = Plan::new("t", &self.cells).attach(self.attach).uplink(self.uplink);
        if self.uplink == UplinkMode::Xdp { plan.bridge() } else { plan }
    }
}

/// A world that all tests of one kind share. It is removed when the test process ends.
///
/// Tests keep out of each other's way by taking apps and containers of their own.
fn world(kind: Kind) -> &'static World {
    static WORLDS: LazyLock<Mutex<Vec<(Kind, &'static World)>>> = LazyLock::new(Mutex::default);
    // A test that failed to build a world says so itself; the next one tries again.
    let mut worlds = WORLDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, world)) = worlds.iter().find(|(found, _)| *found == kind) {
        return world;
    }
    let world = World::new(kind.plan()).unwrap_or_else(|error| panic!("{error:#}"));
    let world: &'static World = Box::leak(Box::new(world));
    worlds.push((kind, world));
    world
}

/// Two Sarcenet cells.
const OURS: Kind = Kind::new([CellKind::Sarcenet, CellKind::Sarcenet]);
/// A Sarcenet cell and a kernel cell.
const MIXED: Kind = Kind::new([CellKind::Sarcenet, CellKind::KERNEL]);
/// Two kernel cells.
const THEIRS: Kind = Kind::new([CellKind::KERNEL, CellKind::KERNEL]);

/// One test per behaviour and kind of world.
macro_rules! behaviours {
    ($($name:ident: $check:path,)+) => {
        behaviours!(@kind sarcenet_and_sarcenet, OURS, $($name: $check,)+);
        behaviours!(@kind sarcenet_and_kernel, MIXED, $($name: $check,)+);
        behaviours!(@kind veth_and_veth, OURS.attach(AttachKind::Veth), $($name: $check,)+);
        behaviours!(@kind veth_and_kernel, MIXED.attach(AttachKind::Veth), $($name: $check,)+);
        behaviours!(@kind udp_and_udp, OURS.uplink(UplinkMode::Udp), $($name: $check,)+);
        behaviours!(@kind udp_and_kernel, MIXED.uplink(UplinkMode::Udp), $($name: $check,)+);
        behaviours!(@kind gso_and_gso, OURS.uplink(UplinkMode::TunnelGso), $($name: $check,)+);
        behaviours!(@kind gso_and_kernel, MIXED.uplink(UplinkMode::TunnelGso), $($name: $check,)+);
        behaviours!(@kind xdp_and_xdp, OURS.uplink(UplinkMode::Xdp), $($name: $check,)+);
        behaviours!(@kind xdp_and_kernel, MIXED.uplink(UplinkMode::Xdp), $($name: $check,)+);
        behaviours!(@kind kernel_and_kernel, THEIRS, $($name: $check,)+);
    };
    (@kind $module:ident, $kind:expr, $($name:ident: $check:path,)+) => {
        mod $module {
            use super::*;

            const KIND: Kind = $kind;

            $(
                #[test]
                fn $name() {
                    case::run(KIND, $check);
                }
            )+

            #[test]
            fn links_have_the_modes_asked_for() {
                case::modes(KIND);
            }
        }
    };
}

behaviours! {
    b01_default_is_deny: policy::default_is_deny,
    b02_policy_allows_every_instance: policy::allows_every_instance,
    b03_policy_is_directional: policy::is_directional,
    b04_ports_are_exact: policy::ports_are_exact,
    b04_udp_ports_are_exact: policy::udp_ports_are_exact,
    b05_protocols_are_exact: policy::protocols_are_exact,
    b06_self_policy: policy::between_instances_of_one_app,
    b07_removal_stops_new_connections: policy::removal_stops_new_connections_only,
    b08_source_address_is_kept: policy::source_address_is_kept,
    b10_policy_does_not_open_egress: egress::is_not_opened_by_a_policy,
    b19_refusals_are_rejects: egress::is_refused_with_port_unreachable,
    b22_the_cell_itself_is_protected: egress::to_the_own_cell_is_refused,
    b26_mtu_and_large_transfers: mtu::large_transfers_cross_unfragmented,
    b26_large_datagrams: mtu::large_datagrams_arrive,
    b31_spoofed_sources_stay_in: forgery::spoofed_sources_stay_in,
    b32_containers_forge_no_tags: forgery::containers_forge_no_tags,
}
