//! Sending frames that no protocol stack would send.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};

use crate::namespace::Namespace;

/// Sends frames by an interface of the namespace exactly as they are: with a link header where
/// the interface has one, from the IP header on where it has none.
pub fn inject(namespace: &Namespace, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    let socket = namespace
        .run(|| {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        })?
        .context("open a packet socket")?;
    let address = namespace
        .run(|| {
            let mut all = getifaddrs().ok()?.filter(|entry| entry.interface_name == interface);
            all.find_map(|entry| entry.address?.as_link_addr().copied())
        })?
        .with_context(|| format!("find {interface} in {}", namespace.name()))?;
    for frame in frames {
        sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty()).with_context(|| {
            format!("send {} bytes by {interface} of {}", frame.len(), namespace.name())
        })?;
    }
    Ok(())
}
