//! Limits on bandwidth, as the CNI bandwidth plugin makes them: token bucket filters on the host
//! end of a container's veth, and on a device that what it sends is redirected to (contract
//! section 6.6).

use std::process::Command;

use anyhow::Result;

use crate::namespace::{Namespace, fed};
use crate::outside::Bandwidth;

/// Limits what passes a veth, both ways; the number makes the name of the device.
pub(super) fn limit(
    namespace: &Namespace,
    veth: &str,
    number: u8,
    Bandwidth { bits_per_second, burst_bits }: Bandwidth,
) -> Result<()> {
    let device = format!("bwp{number}");
    namespace.ip(&format!("link add {device} type ifb\nlink set {device} up\n"))?;
    let burst = burst_bits / 8;
    let bucket = format!("tbf rate {bits_per_second} burst {burst} latency 25ms");
    let mut tc = Command::new("tc");
    tc.args(["-n", namespace.name(), "-batch", "-"]);
    fed(
        &mut tc,
        &format!(
            "qdisc add dev {veth} root handle 1: {bucket}\n\
             qdisc add dev {veth} handle ffff: ingress\n\
             filter add dev {veth} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev {device}\n\
             qdisc add dev {device} root handle 1: {bucket}\n"
        ),
    )
    .map(drop)
}
