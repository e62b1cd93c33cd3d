//! What containers leave behind: nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sarcenet_netns_tests::{CLEARED_AWAY, is_clean};
use sarcenet_rig::eventually;

use crate::runtime::Runtime;

/// Waits until neither the cell nor its runtime has anything of a container.
pub(crate) fn nothing(runtime: &impl Runtime) -> Result<()> {
    eventually(CLEARED_AWAY, || {
        is_clean(runtime.cell())?;
        let flows = runtime.cell().dataplane()?.status()?.flows;
        ensure!(flows.used == 0, "{flows:?}");
        let left = runtime.left()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .with_context(|| format!("something is left on {}", runtime.cell().plan().name))
}

/// Places below a directory where something is mounted, in the order of mounting.
pub(crate) fn mounts(directory: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    Ok(places.filter(|it| Path::new(it).starts_with(directory)).map(ToOwned::to_owned).collect())
}

/// Files of a directory, if there is one, with such names.
pub(crate) fn files(directory: &Path, ours: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| ours(name)).collect())
}
