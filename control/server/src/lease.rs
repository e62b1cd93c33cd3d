//! Leases of overlay subnets.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A cell's part of the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The cell's address in the underlay.
    pub underlay: Ipv4Addr,
    /// Its subnet of the overlay: a block, or one address with prefix 32.
    pub subnet: Ipv4Net,
    /// The MAC of its VTEP.
    pub mac: [u8; 6],
}

/// What a cell asks for, and what there is.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// The cell's address in the underlay.
    pub underlay: Ipv4Addr,
    /// Whether it needs one address only.
    pub single: bool,
    /// How long after its last renewal a lease is over.
    pub expiry: std::time::Duration,
    /// The pools of subnets.
    pub pools: Pools,
}

/// The subnets that cells can have (contract section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    /// The overlay.
    pub overlay: Ipv4Net,
    /// The prefix length of a block; the first block is cut into single addresses.
    pub block_prefix: u8,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease goes on.
    Renewed,
    /// It was not known, and is now.
    Created,
    /// Another one is known for the same cell.
    Mismatch,
    /// Another cell has its subnet or its MAC.
    Conflict,
}
