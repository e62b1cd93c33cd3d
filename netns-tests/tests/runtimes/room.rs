//! Where runtimes can do no harm.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Set in the room.
const INSIDE: &str = "SARCENET_TEST_ROOM";

/// Runs the test of this name in namespaces of its own for processes and mounts: what a runtime
/// starts or mounts is gone with the room, however the test ends, and the machine sees none of it.
pub(crate) fn in_a_room(name: &str, test: impl FnOnce() -> Result<()>) {
    let done = if std::env::var_os(INSIDE).is_some() { test() } else { outside(name) };
    done.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Runs this program again, in the room, with that test alone.
fn outside(name: &str) -> Result<()> {
    let program = std::env::current_exe().context("find the test's own program")?;
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(["--propagation", "private", "sh", "-ec", include_str!("room.sh"), "room"])
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .context("run unshare")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "in the room: {}\n{said}", output.status);
    // Whoever renames the test and not the name would run nothing.
    ensure!(said.contains("1 passed"), "there is no test {name}:\n{said}");
    Ok(())
}
