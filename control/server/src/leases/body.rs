//! Leases as the API writes them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::lease::Lease;

/// A lease in a request or an answer (contract section 4.1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseBody {
    /// The cell's address in the underlay: `10.0.16.15`.
    pub underlay_ip: String,
    /// Its subnet of the overlay: `10.255.73.0/24`.
    pub overlay_subnet: String,
    /// The MAC of its VTEP: `ee:ee:0a:ff:49:00`.
    pub overlay_hardware_addr: String,
}

/// Why a body is not a lease; the texts are those of Cloud Foundry's controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseBodyError {
    /// Not an IPv4 address.
    #[error("invalid underlay ip: {0}")]
    Underlay(String),
    /// Not an IPv4 network.
    #[error("invalid CIDR address: {0}")]
    Subnet(String),
    /// Not a MAC of six bytes.
    #[error("address {0}: invalid MAC address")]
    Mac(String),
}

impl From<&Lease> for LeaseBody {
    fn from(lease: &Lease) -> Self {
        Self {
            underlay_ip: lease.underlay.to_string(),
            overlay_subnet: lease.subnet.to_string(),
            overlay_hardware_addr: lease.mac.map(|byte| format!("{byte:02x}")).join(":"),
        }
    }
}

impl TryFrom<LeaseBody> for Lease {
    type Error = LeaseBodyError;

    fn try_from(body: LeaseBody) -> Result<Self, LeaseBodyError> {
        let LeaseBody { underlay_ip, overlay_subnet, overlay_hardware_addr } = body;
        let underlay: Result<Ipv4Addr, _> = underlay_ip.parse();
        let underlay = underlay.map_err(|_| LeaseBodyError::Underlay(underlay_ip))?;
        let subnet = overlay_subnet.parse::<Ipv4Net>().ok();
        let subnet = subnet.ok_or(LeaseBodyError::Subnet(overlay_subnet))?;
        let mac = mac(&overlay_hardware_addr).ok_or(LeaseBodyError::Mac(overlay_hardware_addr))?;
        Ok(Self { underlay, subnet, mac })
    }
}

/// Six bytes with colons or hyphens between them, or three pairs with dots.
fn mac(text: &str) -> Option<[u8; 6]> {
    let separator = ['-', '.'].into_iter().find(|c| text.contains(*c)).unwrap_or(':');
    let digits = if separator == '.' { 4 } else { 2 };
    let mut mac = 0_u64;
    let mut groups = 0;
    for group in text.split(separator) {
        if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        mac = mac.checked_shl(4 * digits as u32)? | u64::from_str_radix(group, 16).ok()?;
        groups += digits / 2;
        if groups > 6 {
            return None;
        }
    }
    let [0, 0, bytes @ ..] = mac.to_be_bytes() else { return None };
    (groups == 6).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_in_all_the_ways_of_writing_them() {
        let all = [0xee, 0xee, 0x0a, 0xff, 0x49, 0x00];
        for text in ["ee:ee:0a:ff:49:00", "EE-EE-0A-FF-49-00", "eeee.0aff.4900"] {
            assert_eq!(mac(text), Some(all), "{text}");
        }
        for text in [
            "",
            ":",
            "ee:ee:0a:ff:49",
            "ee:ee:0a:ff:49:00:11",
            "ee:ee:0a:ff:49:00:",
            "ee:ee:0a:ff:49:0",
            "ee:ee:0a:ff:49:0g",
            "ee:ee:0a:ff:49:+0",
            "ee:ee-0a:ff-49:00",
            "eeee:0aff:4900",
            "ee.ee.0a.ff.49.00",
            "eeee.0aff.4900.1111",
            "eeee0aff4900",
            "éé:ee:0a:ff:49:00",
        ] {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_lease_is_read_as_it_was_written(
            underlay: u32, address: u32, prefix in 0_u8..=32, mac: [u8; 6],
        ) {
            let subnet = Ipv4Net::new(address.into(), prefix).unwrap();
            let lease = Lease { underlay: underlay.into(), subnet, mac };
            prop_assert_eq!(Lease::try_from(LeaseBody::from(&lease)), Ok(lease));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f:.-]{0,24}|.{0,24}") {
            let _ = mac(&text);
            let _ = Lease::try_from(LeaseBody {
                underlay_ip: text.clone(),
                overlay_subnet: text.clone(),
                overlay_hardware_addr: text,
            });
        }
    }
}
