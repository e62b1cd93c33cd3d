//! Where the programs are.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Paths of the programs of a Sarcenet cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `sarcenet`: the agent and the operator's command.
    pub sarcenet: PathBuf,
    /// `sarcenet-dataplane`.
    pub dataplane: PathBuf,
    /// `sarcenet-cni`.
    pub cni: PathBuf,
}

impl Binaries {
    /// Looks for all of them as for [one](Self::program).
    pub fn find() -> Result<Self> {
        Ok(Self {
            sarcenet: Self::program("sarcenet")?,
            dataplane: Self::program("sarcenet-dataplane")?,
            cni: Self::program("sarcenet-cni")?,
        })
    }

    /// Looks in `SARCENET_BIN_DIR`, else beside the running program, else one directory up (tests
    /// and benches lie one below the programs).
    pub fn program(name: &str) -> Result<PathBuf> {
        let directories: Vec<PathBuf> = match std::env::var_os("SARCENET_BIN_DIR") {
            Some(directory) => vec![directory.into()],
            None => std::env::current_exe()?
                .ancestors()
                .skip(1)
                .take(2)
                .map(Path::to_path_buf)
                .collect(),
        };
        match directories.iter().map(|d| d.join(name)).find(|p| p.is_file()) {
            Some(path) => Ok(path),
            None => bail!(
                "there is no {name} in {}; build it first (cargo build --workspace --bins) or set SARCENET_BIN_DIR",
                directories
                    .iter()
                    .map(|d| d.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
        }
    }
}
