//! Ports that the kernel gives to the cell's own sockets: source NAT cannot use the same.

use std::io;

use sarcenet_agent_api::PortRange;

/// Where the kernel says which ports it gives to sockets that ask for none (ip-sysctl.rst).
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Where it says which of them it leaves out.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Why the ports of source NAT cannot be used on this cell.
#[derive(Debug, thiserror::Error)]
pub enum EphemeralError {
    /// The kernel's settings cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The setting.
        path: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// They are the kernel's.
    #[error(
        "snat_ports {wanted} overlaps the ports that the kernel gives to the cell's own sockets, \
         {kernel} (net.ipv4.ip_local_port_range); choose others, or keep the kernel from giving \
         them: sysctl -w net.ipv4.ip_local_reserved_ports={cure}"
    )]
    Overlap {
        /// Those of source NAT.
        wanted: PortRange,
        /// The kernel's.
        kernel: PortRange,
        /// What to reserve, with what is reserved already.
        cure: String,
    },
}

/// Looks whether the kernel of the calling thread's network namespace leaves `wanted` alone.
pub fn check(wanted: PortRange) -> Result<(), EphemeralError> {
    let read = |path| {
        std::fs::read_to_string(path).map_err(|source| EphemeralError::Read { path, source })
    };
    overlap(wanted, &read(RANGE)?, &read(RESERVED)?)
}

fn overlap(wanted: PortRange, range: &str, reserved: &str) -> Result<(), EphemeralError> {
    let mut ends = range.split_whitespace().map_while(|number| number.parse().ok());
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else { return Ok(()) };
    let kernel = PortRange { first, last };
    let shared = PortRange { first: wanted.first.max(first), last: wanted.last.min(last) };
    if shared.first > shared.last {
        return Ok(());
    }
    let reserved = reserved.trim();
    let mut left_out: Vec<_> = reserved.split(',').filter_map(ports).collect();
    left_out.sort_by_key(|ports| ports.first);
    // The first port that is not known to be left out.
    let mut next = u32::from(shared.first);
    for ports in left_out {
        if u32::from(ports.first) <= next {
            next = next.max(u32::from(ports.last) + 1);
        }
    }
    if next > u32::from(shared.last) {
        return Ok(());
    }
    let gap = if reserved.is_empty() { "" } else { "," };
    Err(EphemeralError::Overlap { wanted, kernel, cure: format!("{reserved}{gap}{shared}") })
}

/// An item of the kernel's list: a port or a range.
fn ports(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(PortRange { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_ports_are_left_to_it() {
        let ports = PortRange { first: 16_384, last: 32_767 };
        for (range, reserved, cure) in [
            ("32768\t60999\n", "\n", None),
            ("1024\t16383\n", "\n", None),
            ("32000\t60999\n", "\n", Some("32000-32767")),
            ("32767\t60999\n", "8080\n", Some("8080,32767")),
            ("1024\t60999\n", "16384-32767\n", None),
            ("1024\t60999\n", "20000-40000,9,16000-19999\n", None),
            (
                "1024\t60999\n",
                "16384-19999,20001-40000\n",
                Some("16384-19999,20001-40000,16384-32767"),
            ),
            ("1024\t60999\n", "16385-40000\n", Some("16385-40000,16384-32767")),
        ] {
            match overlap(ports, range, reserved) {
                Ok(()) => assert_eq!(cure, None, "{range} {reserved}"),
                Err(EphemeralError::Overlap { cure: got, .. }) => {
                    assert_eq!(Some(got.as_str()), cure);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
