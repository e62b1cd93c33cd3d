//! What containers leave behind: nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sarcenet_cni_chain::RESULTS;
use sarcenet_netns_tests::{CLEARED_AWAY, is_clean};
use sarcenet_rig::eventually;

use crate::runtime::Runtime;

/// Waits until neither the cell nor its runtime has anything of a container.
pub(crate) fn nothing(runtime: &impl Runtime) -> Result<()> {
    eventually(CLEARED_AWAY, || {
        is_clean(runtime.cell())?;
        let mut dataplane = runtime.cell().dataplane()?;
        let flows = dataplane.flows().collect::<Result<Vec<_>, _>>()?;
        ensure!(flows.is_empty(), "{flows:?}");
        let mounts = mounts(runtime.directory())?;
        ensure!(mounts.is_empty(), "{mounts:?}");
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

/// Ends a container in some way, and waits until its network namespace is gone, and what its
/// network's plugins answered is forgotten.
pub(crate) fn ended(
    runtime: &impl Runtime,
    app: &str,
    end: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let info = runtime.info(app)?;
    end()?;
    eventually(CLEARED_AWAY, || {
        ensure!(!Path::new(&info.netns_path).exists(), "{} is left", info.netns_path);
        let results = fs::read_dir(RESULTS).context("list the results of plugins")?;
        for file in results {
            let file = file?.file_name().to_string_lossy().into_owned();
            ensure!(!file.contains(&info.attachment.id.container), "{file} is left");
        }
        Ok(())
    })
}
