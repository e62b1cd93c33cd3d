//! Egress rules: "traffic of this kind to these addresses", of which the last one that matches
//! counts.
//!
//! A list of rules is compiled once into an [`EgressTable`]: for each kind of traffic a
//! [`Plane`] of addresses and ports in which every rule is a rectangle. Deciding takes the same few
//! steps whatever the rules are.

mod plane;

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::{EgressRule, PortRange, RuleId, Traffic};

use self::plane::{Area, Plane};

/// IP protocol numbers with rules of their own (IANA, RFC 5237).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

const ALL: PortRange = PortRange { first: 0, last: u16::MAX };

/// What a new conversation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Where to.
    pub destination: Ipv4Addr,
    /// IP protocol number.
    pub protocol: u8,
    /// The destination port of TCP and UDP. Type (upper byte) and code of ICMP. Of other
    /// protocols it is not looked at.
    pub selector: u16,
}

impl Question {
    /// About an ICMP message of this type and code.
    pub const fn icmp(destination: Ipv4Addr, kind: u8, code: u8) -> Self {
        Self { destination, protocol: ICMP, selector: u16::from_be_bytes([kind, code]) }
    }
}

/// The rule that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// Its name; 0 for none.
    pub rule: RuleId,
    /// Whether the conversation is to be recorded.
    pub log: bool,
}

/// A compiled list of egress rules. Immutable: any number of threads ask it at once.
///
/// `n` rules take `O(n log n)` memory and time to compile; to decide, `O(log n)` look-ups in
/// sorted segments. Nothing is allocated then.
#[derive(Debug, Default)]
pub struct EgressTable {
    /// What to answer for each rule, in the order of the list.
    answers: Box<[Matched]>,
    tcp: Plane,
    udp: Plane,
    /// Rules about ICMP types, and types with codes.
    icmp: Plane,
    /// Rules about an ICMP code of whatever type: in the plane of types they would be 256
    /// rectangles each.
    icmp_codes: Plane,
    /// Rules about everything, for protocols that have none of their own.
    other: Plane,
}

impl EgressTable {
    /// Compiles a list. Rules without an address or without a port (first above last) match
    /// nothing.
    pub fn compile(rules: &[EgressRule]) -> Self {
        let [mut tcp, mut udp, mut icmp, mut icmp_codes, mut other] = [const { Vec::new() }; 5];
        for (rank, rule) in (1..).zip(rules) {
            let (first, last) = (u32::from(rule.first), u32::from(rule.last));
            let area = |selectors| Area { first, last, selectors, rank };
            match rule.traffic {
                Traffic::All => {
                    for areas in [&mut tcp, &mut udp, &mut icmp, &mut other] {
                        areas.push(area(ALL));
                    }
                }
                Traffic::Tcp(ports) => tcp.push(area(ports)),
                Traffic::Udp(ports) => udp.push(area(ports)),
                Traffic::Icmp { kind: None, code: None } => icmp.push(area(ALL)),
                Traffic::Icmp { kind: None, code: Some(code) } => {
                    let code = u16::from(code);
                    icmp_codes.push(area(PortRange { first: code, last: code }));
                }
                Traffic::Icmp { kind: Some(kind), code } => {
                    let first = u16::from_be_bytes([kind, code.unwrap_or(0)]);
                    let last = u16::from_be_bytes([kind, code.unwrap_or(u8::MAX)]);
                    icmp.push(area(PortRange { first, last }));
                }
            }
        }
        Self {
            answers: rules.iter().map(|rule| Matched { rule: rule.id, log: rule.log }).collect(),
            tcp: Plane::new(tcp),
            udp: Plane::new(udp),
            icmp: Plane::new(icmp),
            icmp_codes: Plane::new(icmp_codes),
            other: Plane::new(other),
        }
    }

    /// The last rule of the list that matches, if any does.
    #[inline]
    pub fn decide(&self, question: &Question) -> Option<Matched> {
        let Question { destination, protocol, selector } = *question;
        let rank = match protocol {
            TCP => self.tcp.top(destination, selector),
            UDP => self.udp.top(destination, selector),
            ICMP => {
                let codes = self.icmp_codes.top(destination, selector & 0xff);
                codes.max(self.icmp.top(destination, selector))
            }
            _ => self.other.top(destination, 0),
        };
        // Ranks count from 1: there is none before the first rule.
        self.answers.get((rank as usize).checked_sub(1)?).copied()
    }

    /// How many rules were compiled, those that match nothing included.
    pub const fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there are none: nothing matches.
    pub const fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Memory that it takes, in bytes.
    pub fn memory(&self) -> usize {
        let planes = [&self.tcp, &self.udp, &self.icmp, &self.icmp_codes, &self.other];
        size_of::<Self>()
            + size_of_val(&*self.answers)
            + planes.into_iter().map(Plane::memory).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
