//! Test worlds: cells and containers in network namespaces of one machine.
//!
//! A [`World`] is a few cells joined by an underlay. Each cell is either a [`CellKind::Sarcenet`]
//! cell (the real `sarcenet-dataplane` and `sarcenet agent`, containers attached by the real
//! `sarcenet-cni`) or a [`CellKind::Kernel`] cell (the VXLAN device and iptables rules that
//! Cloud Foundry's Silk makes). Tests, the demo and the throughput harness speak to both in the
//! same words: attach a container of an app, allow a policy, connect.
//!
//! Nothing outside the world's own namespaces (all named `sn-<id>-...`) and its directory is
//! touched, and everything is removed when the world is dropped or its process ends, however it
//! ends.
#![forbid(unsafe_code)]

mod capture;
mod container;
mod inject;
mod kernel;
mod namespace;
pub mod outside;
mod plan;
mod reaper;
mod sarcenet;
mod servers;
mod traffic;
mod world;

pub use capture::{Capture, Frame, TunnelFrame};
pub use container::Container;
pub use kernel::KernelCell;
pub use namespace::{Namespace, checked};
pub use outside::{ContainerSpec, GroupRule, OutsideHost, OutsidePlan, SecurityGroup, Workload};
pub use plan::{AppTag, Backend, CellKind, CellPlan, Plan, tcp, udp};
pub use sarcenet::{Binaries, SarcenetCell};
pub use sarcenet_agent_api::{AttachKind, Policy, PortRange, Protocol};
pub use sarcenet_dataplane_api::UplinkMode;
pub use servers::Servers;
pub use traffic::{
    Bulk, BulkResult, HttpClient, HttpServer, Outcome, UdpAnswer, UdpServer, ask_udp,
    bulk_transfer, serve_http_forever,
};
pub use world::{Cell, World, eventually};
