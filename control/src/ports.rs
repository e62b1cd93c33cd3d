//! Keeping the kernel away from ports that are ours.
//!
//! Source NAT gives conversations of containers ports of the cell's own address. The kernel takes
//! ports of the same address for the cell's own processes, from `net.ipv4.ip_local_port_range`. What
//! both want is reserved (`net.ipv4.ip_local_reserved_ports`): the kernel still gives such a port to
//! who asks for it by number, and to nobody else.

use sarcenet_dataplane_api::PortRange;

use crate::sysctl::{self, SysctlError};

const EPHEMERAL: &str = "ipv4/ip_local_port_range";
const RESERVED: &str = "ipv4/ip_local_reserved_ports";

/// Why ports cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// What the kernel uses is not known.
    #[error("cannot find out which ports the kernel uses itself: {0}")]
    Unknown(#[from] SysctlError),
    /// They cannot be reserved.
    #[error(
        "ports {ours} for source NAT overlap those that the kernel gives to the cell's own \
         processes ({kernels}), and cannot be reserved: {source}; choose ports outside, or add \
         them to net.ipv4.ip_local_reserved_ports before the start"
    )]
    Overlap {
        /// Those that were to be ours.
        ours: PortRange,
        /// `net.ipv4.ip_local_port_range`.
        kernels: PortRange,
        /// Why they cannot be reserved.
        source: SysctlError,
    },
}

/// Sees to it that the kernel gives none of these ports to a process of the current network
/// namespace that does not ask for it by number. Returns whether a setting was changed for that;
/// what was reserved before stays so, and nothing is taken back when we end.
pub fn reserve(ours: PortRange) -> Result<bool, PortsError> {
    let kernels = ephemeral()?;
    let reserved = sysctl::get(RESERVED)?;
    let reserved = reserved.trim();
    if !overlap(ours, kernels) || holds(reserved, ours) {
        return Ok(false);
    }
    // The kernel merges ranges that overlap.
    let separator = if reserved.is_empty() { "" } else { "," };
    sysctl::set(RESERVED, &format!("{reserved}{separator}{ours}"))
        .map_err(|source| PortsError::Overlap { ours, kernels, source })?;
    Ok(true)
}

/// Ports that the kernel gives to processes that ask for any.
fn ephemeral() -> Result<PortRange, SysctlError> {
    let text = sysctl::get(EPHEMERAL)?;
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => Ok(PortRange { first, last }),
        _ => Err(SysctlError::Read {
            name: EPHEMERAL.to_owned(),
            source: std::io::Error::other(format!("'{}' is no range of ports", text.trim())),
        }),
    }
}

const fn overlap(a: PortRange, b: PortRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

/// Whether a list of ports and ranges, as the kernel writes it (sorted, ranges merged), holds all
/// of these.
fn holds(list: &str, ports: PortRange) -> bool {
    list.split(',').any(|item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last))
            if PortRange { first, last }.contains(ports.first) && ports.last <= last)
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::sysctl::tests::in_new_namespace;

    const fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    fn reserved() -> String {
        sysctl::get(RESERVED).unwrap().trim().to_owned()
    }

    #[test]
    fn ports_that_the_kernel_does_not_use_need_no_reserving() {
        in_new_namespace(|| {
            sysctl::set(EPHEMERAL, "32768 60999").unwrap();
            assert!(!reserve(range(16_384, 32_767)).unwrap());
            assert!(!reserve(range(61_000, 65_535)).unwrap());
            assert_eq!(reserved(), "");
        });
    }

    #[test]
    fn what_overlaps_is_reserved_beside_what_was() {
        in_new_namespace(|| {
            sysctl::set(EPHEMERAL, "32768 60999").unwrap();
            // Longer than a small buffer.
            let others = "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,50000,50010-50020";
            sysctl::set(RESERVED, others).unwrap();
            assert!(reserve(range(50_015, 60_000)).unwrap());
            let expected = others.replace("50020", "60000");
            assert_eq!(reserved(), expected);
            assert!(!reserve(range(50_015, 60_000)).unwrap(), "twice");
            assert!(!reserve(range(50_020, 50_020)).unwrap(), "a part of it");
            assert_eq!(reserved(), expected);
            assert!(reserve(range(30_000, 32_768)).unwrap(), "one port of it");
            assert!(reserved().contains(",30000-32768,50000,"), "{}", reserved());
        });
    }

    /// What all of it is for.
    #[test]
    fn the_kernel_gives_reserved_ports_to_nobody_who_asks_for_any() {
        in_new_namespace(|| {
            sysctl::set(EPHEMERAL, "40000 40009").unwrap();
            assert!(reserve(range(39_000, 40_004)).unwrap());
            let sockets: Vec<_> =
                (0..5).map(|_| UdpSocket::bind(("0.0.0.0", 0)).unwrap()).collect();
            assert!(sockets.iter().all(|s| s.local_addr().unwrap().port() > 40_004));
            UdpSocket::bind(("0.0.0.0", 0)).unwrap_err();
            UdpSocket::bind(("0.0.0.0", 40_002)).unwrap();
        });
    }

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        for (list, expected) in [
            ("", false),
            ("200", false),
            ("100-200", true),
            ("1,5-7,100-200,300", true),
            ("100-199", false),
            ("101-200", false),
            ("0-65535", true),
            ("x-y", false),
        ] {
            assert_eq!(holds(list, range(100, 200)), expected, "{list}");
        }
        assert!(holds("7", range(7, 7)));
    }
}
