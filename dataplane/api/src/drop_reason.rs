//! Every reason for which a packet can end without being sent on. One list makes the enum, the
//! counters' labels, the trace text and the reference page.

use serde::{Deserialize, Serialize};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $token:literal,)+) => {
        /// Why a packet was dropped. Each packet is dropped for exactly one reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The metric label: lower case, underscores.
            pub const fn token(self) -> &'static str {
                match self {
                    $(Self::$name => $token,)+
                }
            }

            /// What it means, in one or two sentences.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or a header is malformed.
    Malformed = "malformed",
    /// Not IPv4 (IPv6, ARP through the tunnel, or another EtherType).
    NotIpv4 = "not_ipv4",
    /// The IPv4 header's checksum is wrong.
    BadHeaderChecksum = "bad_header_checksum",
    /// The VXLAN header lacks the I flag or has reserved bits set in a combination that no cell sends.
    BadTunnelFlags = "bad_tunnel_flags",
    /// The VXLAN header carries a network identifier other than the overlay's.
    WrongVni = "wrong_vni",
    /// The inner frame is addressed to another cell's VTEP.
    WrongVtep = "wrong_vtep",
    /// Tunnel packet from an underlay address that no peer has.
    UnknownPeer = "unknown_peer",
    /// Tunnel packet whose inner source is not in the subnet leased to its sender.
    ForeignSource = "foreign_source",
    /// A container sent a packet that does not carry its own address.
    SpoofedSource = "spoofed_source",
    /// A container's frame goes to another MAC address than its gateway's.
    WrongMac = "wrong_mac",
    /// Multicast or broadcast, which the overlay does not carry.
    NotUnicast = "not_unicast",
    /// No policy admits this conversation; refused with ICMP port unreachable.
    PolicyDenied = "policy_denied",
    /// The conversation was established, its policy is gone, and revocation is immediate.
    PolicyRevoked = "policy_revoked",
    /// To the outside, which this container may not reach; refused with ICMP port unreachable.
    EgressDenied = "egress_denied",
    /// To the cell itself, which containers may not reach, or to the tunnel's port of another cell;
    /// refused with ICMP port unreachable.
    HostDenied = "host_denied",
    /// To the outside, but every port of the cell's address is in use for that destination, or the
    /// container has as many conversations as it may; refused with ICMP port unreachable.
    SnatExhausted = "snat_exhausted",
    /// To the outside, more new connections to one address and port than the container may open;
    /// refused with ICMP port unreachable.
    ConnectionLimit = "connection_limit",
    /// More than the container may be sent for now.
    RateLimit = "rate_limit",
    /// To an overlay address that no container and no peer has.
    NoRoute = "no_route",
    /// Its time to live ran out; answered with ICMP time exceeded.
    TtlExceeded = "ttl_exceeded",
    /// Larger than the next link carries and not to be fragmented; answered with ICMP fragmentation needed.
    TooBig = "too_big",
    /// A later fragment whose first fragment was not seen or not admitted.
    OrphanFragment = "orphan_fragment",
    /// An ICMP error that is not about a conversation known here.
    UnrelatedIcmp = "unrelated_icmp",
    /// A TCP packet or reply that belongs to no known conversation and opens none.
    Untracked = "untracked",
    /// A TCP segment of a known connection whose sequence numbers lie where the connection's cannot
    /// be: a forged reset or blind injection, more often than not.
    OutOfWindow = "out_of_window",
    /// The container has as many conversations that nobody has answered as it may, and none of them
    /// could make way.
    HalfOpenLimit = "half_open_limit",
    /// The flow table is full and nothing in it could go.
    FlowTableFull = "flow_table_full",
    /// No buffer was free.
    NoBuffer = "no_buffer",
    /// The door it should leave by is gone.
    LinkGone = "link_gone",
    /// The door it should leave by stayed full.
    LinkFull = "link_full",
    /// The kernel refused it at the door.
    LinkError = "link_error",
    /// The uplink knows no MAC of a next hop to its cell: not resolved yet, no answer, or the route
    /// leaves by another interface.
    NextHopUnknown = "next_hop_unknown",
    /// Its offload metadata contradicts its headers.
    BadOffload = "bad_offload",
    /// No desired state yet: the dataplane waits for its controller.
    NotConfigured = "not_configured",
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_serialised_names() {
        for &reason in DropReason::ALL {
            let snake: String = format!("{reason:?}")
                .char_indices()
                .flat_map(|(i, c)| {
                    let dash = (c.is_uppercase() && i > 0).then_some('_');
                    dash.into_iter().chain(c.to_lowercase())
                })
                .collect();
            assert_eq!(reason.token(), snake);
            assert!(reason.text().ends_with('.'), "{reason:?} has no full sentence");
        }
    }

    #[test]
    fn numbers_are_indices() {
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, i);
        }
    }
}
