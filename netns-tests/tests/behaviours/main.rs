//! What apps see of the network, on every pair of cells: Sarcenet with Sarcenet, Sarcenet with a
//! kernel cell, both with TUNs and with veths in the containers, and - to show that the tests ask for what the kernel stack does - two kernel
//! cells. Each behaviour is looked at from the first cell to the second, back, and within each.
//! The numbers are those of the list of user-visible behaviours (contract section 15).
#![forbid(unsafe_code)]

mod case;
mod egress;
mod forgery;
mod mtu;
mod policy;

use std::sync::{LazyLock, Mutex};

use sarcenet_rig::{AttachKind, CellKind, Plan, World};

/// A world that all tests of one pair share. It is removed when the test process ends.
///
/// Tests keep out of each other's way by taking apps and containers of their own.
fn world(first: CellKind, second: CellKind, attach: AttachKind) -> &'static World {
    static WORLDS: LazyLock<Mutex<Vec<&'static World>>> = LazyLock::new(Mutex::default);
    let wanted = [first, second];
    // A test that failed to build a world says so itself; the next one tries again.
    let mut worlds = WORLDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(world) = worlds
        .iter()
        .find(|world| (&world.plan().cells[..], world.plan().attach) == (&wanted, attach))
    {
        return world;
    }
    let plan = Plan::new("t", &wanted).attach(attach);
    let world = World::new(plan).unwrap_or_else(|error| panic!("{error:#}"));
    let world: &'static World = Box::leak(Box::new(world));
    worlds.push(world);
    world
}

const SARCENET: CellKind = CellKind::Sarcenet;

/// One test per behaviour, pair of cells and kind of interface.
macro_rules! behaviours {
    ($($name:ident: $check:path,)+) => {
        behaviours!(@pair sarcenet_and_sarcenet, SARCENET, SARCENET, Tun, $($name: $check,)+);
        behaviours!(@pair sarcenet_and_kernel, SARCENET, CellKind::KERNEL, Tun, $($name: $check,)+);
        behaviours!(@pair veth_and_veth, SARCENET, SARCENET, Veth, $($name: $check,)+);
        behaviours!(@pair veth_and_kernel, SARCENET, CellKind::KERNEL, Veth, $($name: $check,)+);
        behaviours!(@pair kernel_and_kernel, CellKind::KERNEL, CellKind::KERNEL, Tun, $($name: $check,)+);
    };
    (@pair $pair:ident, $first:expr, $second:expr, $attach:ident, $($name:ident: $check:path,)+) => {
        mod $pair {
            use super::*;
            $(
                #[test]
                fn $name() {
                    case::run($first, $second, AttachKind::$attach, $check);
                }
            )+
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
