//! Which interface has an address.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;

/// Name and index of the interface of the calling thread's namespace that has this address; none
/// when there is none.
///
/// # Errors
/// What getifaddrs(3) or `if_nametoindex(3)` says; the name is that of the interface, when known.
pub(crate) fn with_address(
    address: Ipv4Addr,
) -> Result<Option<(String, u32)>, (String, io::Error)> {
    let mut all = getifaddrs()
        .map_err(|errno| (format!("with the address {address}"), io::Error::from(errno)))?;
    let found = all.find_map(|entry| {
        let has = entry.address?.as_sockaddr_in().is_some_and(|found| found.ip() == address);
        has.then_some(entry.interface_name)
    });
    let Some(name) = found else { return Ok(None) };
    match if_nametoindex(name.as_str()) {
        Ok(index) => Ok(Some((name, index))),
        Err(errno) => Err((name, errno.into())),
    }
}
