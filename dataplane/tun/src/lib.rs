//! TUN devices with virtio-net headers and segmentation offloads.
//!
//! A TUN opened here (`IFF_TUN | IFF_NO_PI | IFF_VNET_HDR`) hands out and takes IP packets, each
//! with a `virtio_net_hdr` of [`VNET_HEADER_LEN`] bytes in front that says how the packet is to
//! be cut and which checksum is still to be filled in. With its offloads on, one read or write
//! carries a TCP or UDP super-packet of up to 64 KiB.
//!
//! Crate `tun` makes the device or attaches to an existing one; what it lacks (the header's
//! length, the offloads, persistence that can be taken back, adopting a descriptor that another
//! process made) stands beside it here. Reference: `drivers/net/tun.c` of the Linux kernel.

#![deny(unsafe_code)]

mod device;
mod sys;
mod tunnel;

pub use device::{Features, TunDevice, TunError, check_name};
pub use tunnel::TunnelTap;

/// Length of the `virtio_net_hdr` in front of every packet, in bytes.
pub const VNET_HEADER_LEN: usize = 10;

/// Length of the `virtio_net_hdr_v1_hash_tunnel` in front of every packet of a [`TunnelTap`], in
/// bytes.
pub const TUNNEL_VNET_HEADER_LEN: usize = 24;
