//! That nothing of containers is left on a cell.

use anyhow::{Result, ensure};
use sarcenet_rig::SarcenetCell;

/// Fails while a cell has anything of a container: what its agent knows, an address, a device, a
/// link of its dataplane.
///
/// # Errors
/// What is left; the cell cannot be asked.
pub fn is_clean(cell: &SarcenetCell) -> Result<()> {
    let mut agent = cell.agent()?;
    let left = agent.containers()?;
    ensure!(left.is_empty(), "{left:?}");
    let status = agent.status()?;
    let size = 1_u32 << (32 - status.subnet.prefix_len());
    ensure!(status.addresses_free == size - 3, "{status:?}");
    ensure!(status.problems.is_empty(), "{status:?}");
    let devices = cell.namespace().run(devices)??;
    let ours = |name: &&String| name.starts_with("s-") || name.starts_with("sn-");
    ensure!(!devices.iter().any(|name| ours(&name)), "{devices:?}");
    let links = cell.dataplane()?.status()?.links;
    let held: Vec<_> = links.iter().filter(|link| link.port.is_some()).collect();
    ensure!(held.is_empty(), "{held:?}");
    Ok(())
}

/// Names of all devices of the calling thread's network namespace, sorted.
///
/// # Errors
/// They cannot be listed.
pub fn devices() -> Result<Vec<String>> {
    let index = nix::net::if_::if_nameindex()?;
    let mut names: Vec<_> =
        index.iter().map(|device| device.name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
