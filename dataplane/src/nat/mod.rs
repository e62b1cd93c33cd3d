//! Network address translation: what a conversation's outer view is, which port of the cell it
//! gets, and how headers are rewritten.
//!
//! A conversation has two views. The *inner* one is the container's: it is the flow's key. The
//! *outer* one is what the rest of the world sees, with the cell's address in place of the
//! container's. Source NAT is for conversations that a container begins, destination NAT for those
//! that begin at a port of the cell. The flow table ([`crate::flow`]) holds each flow under both
//! views, so it is the NAT table too: a port of the cell is free for an endpoint when no flow has
//! that outer view.
//!
//! The mapping depends on the endpoint (RFC 4787 section 4.1, "address and port-dependent"), as
//! that of the Linux kernel does: the same port serves any number of conversations with different
//! remote ends.

#![forbid(unsafe_code)]

mod ports;
mod rewrite;

pub use ports::Candidates;
pub use rewrite::{rewrite, rewrite_error};

use std::net::Ipv4Addr;

use crate::flow::FlowKey;

/// IP protocol number of ICMP.
const ICMP: u8 = 1;
/// IP protocol number of TCP.
const TCP: u8 = 6;
/// IP protocol number of UDP.
const UDP: u8 = 17;

/// Which translation a new conversation gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nat {
    /// None.
    #[default]
    None,
    /// Its beginner appears with the cell's address, and a port that the flow table chooses.
    Source,
    /// Its beginner has addressed the cell at this port; the key names the container and its port.
    Destination {
        /// Port of the cell, or ICMP identifier.
        cell_port: u16,
    },
}

/// Which end of a conversation or packet is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// What is to be written into the packets of one direction of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Which end.
    pub side: Side,
    /// Its new address.
    pub address: Ipv4Addr,
    /// Its new port, or the packet's new ICMP identifier. Of no meaning for other protocols.
    pub port: u16,
}

/// The outer view of a conversation of which `key` is the inner one: `side` of it is the cell, at
/// `address` and `port`. An ICMP echo has one identifier, not two.
#[inline]
pub fn outer_view(key: &FlowKey, side: Side, address: Ipv4Addr, port: u16) -> FlowKey {
    let mut outer = *key;
    let (its_address, its_port, other_port) = match side {
        Side::Source => (&mut outer.source, &mut outer.source_port, &mut outer.destination_port),
        Side::Destination => {
            (&mut outer.destination, &mut outer.destination_port, &mut outer.source_port)
        }
    };
    *its_address = address;
    *its_port = port;
    if key.protocol == ICMP {
        *other_port = port;
    }
    outer
}

/// Whether conversations of this protocol have ports, or an identifier, that can be translated.
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, ICMP | TCP | UDP)
}
