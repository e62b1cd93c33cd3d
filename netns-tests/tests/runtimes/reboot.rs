//! What a reboot takes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{SarcenetCell, eventually};

use crate::left;

/// Kills a container's first process, and before it its parent, which could tell somebody.
pub(crate) fn end(init: i32) -> Result<()> {
    let path = format!("/proc/{init}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent: i32 = parent.context("a process has a parent")?.trim().parse()?;
    ensure!(parent > 1, "the parent of {init} has ended");
    for pid in [parent, init].map(Pid::from_raw) {
        kill(pid, Signal::SIGKILL).with_context(|| format!("kill {pid}"))?;
        eventually(PATIENCE, || {
            ensure!(kill(pid, None) == Err(Errno::ESRCH), "{pid} has not ended");
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes away all mounts below a directory, and these files and directories, mounted or not.
pub(crate) fn lose(lost: &[PathBuf], mounted: &Path) -> Result<()> {
    let mounts = left::mounts(mounted)?;
    let mounts = mounts.iter().rev().map(PathBuf::from);
    for path in mounts.chain(lost.iter().cloned()) {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("umount {}", path.display())),
        }
    }
    for path in lost {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Kills both programs of a cell, and starts them.
pub(crate) fn restart(cell: &SarcenetCell) -> Result<()> {
    cell.kill_agent()?;
    cell.kill_dataplane()?;
    cell.restart_dataplane()?;
    cell.restart_agent()?;
    cell.wait_ready()
}
