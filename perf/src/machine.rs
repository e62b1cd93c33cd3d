//! What the numbers were measured on.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine, its kernel, and what the links of our cells really are.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// What is behind the kernel cells' iptables.
    pub(crate) iptables: &'static str,
    /// One line each.
    pub(crate) links: Vec<String>,
}

impl Machine {
    pub(crate) fn look(iptables: &'static str, links: Vec<String>) -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| "unknown".into(), |(_, name)| name.to_owned());
        let uname = Command::new("uname").arg("-sr").output().context("run uname")?;
        Ok(Self {
            processor,
            cores: std::thread::available_parallelism()?.get(),
            kernel: String::from_utf8_lossy(&uname.stdout).trim().to_owned(),
            iptables,
            links,
        })
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        let Self { processor, cores, kernel, iptables, .. } = self;
        format!("{processor}, {cores} cores, {kernel}; the kernel's cells with iptables-{iptables}")
    }
}
