//! The demo as a newcomer meets it.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{Binaries, eventually};

/// The demo's namespaces that there are.
fn namespaces(of: u32) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Ok(Vec::new()) };
    let prefix = format!("sn-demo{of}-");
    let names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

#[test]
fn every_step_comes_true_and_nothing_is_left() -> Result<()> {
    let child = Command::new(Binaries::find()?.sarcenet)
        .args(["demo", "--no-bulk"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // A machine that is busy with other tests may be late for the bars on time, but not miss
    // what they are about.
    let late = |line: &str| line.contains(" within ") && line.contains(" ms after the command");
    let failed: Vec<_> =
        stdout.lines().filter(|line| line.starts_with("FAILED") && !late(line)).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{stdout}\n{stderr}");
    let sum = stdout.lines().last().unwrap_or_default();
    assert!(sum.starts_with("demo: ") && sum.ends_with(" failed"), "{stdout}\n{stderr}");
    assert_eq!(output.status.success(), sum.ends_with(" 0 failed"), "{stdout}");
    assert_eq!(namespaces(pid)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_interrupted_demo_leaves_nothing() -> Result<()> {
    let mut child = Command::new(Binaries::find()?.sarcenet)
        .args(["demo", "--no-bulk"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("a piped output")?).lines();
    let step = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("ok ")));
    ensure!(step.is_some(), "the demo ended before its first step");
    ensure!(!namespaces(child.id())?.is_empty(), "the demo has no namespaces");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    child.wait()?;
    eventually(PATIENCE, || {
        let left = namespaces(child.id())?;
        ensure!(left.is_empty(), "{left:?} are left");
        let directory = format!("/dev/shm/sarcenet-rig/demo{}-0", child.id());
        ensure!(!Path::new(&directory).exists(), "{directory} is left");
        Ok(())
    })
}
