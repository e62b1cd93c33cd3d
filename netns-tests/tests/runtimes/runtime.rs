//! What both runtimes do.

use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result};
use sarcenet_agent_api::ContainerInfo;
use sarcenet_rig::SarcenetCell;

/// A container that is to be started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Its name, and its app.
    pub(crate) name: &'a str,
    /// Port of the cell that leads to the server.
    pub(crate) host_port: Option<u16>,
    /// Whether its traffic is limited as [`network`](crate::network) says.
    pub(crate) limited: bool,
}

impl<'a> Wanted<'a> {
    pub(crate) fn app(name: &'a str) -> Self {
        Self { name, host_port: None, limited: false }
    }
}

/// A runtime on a cell.
pub(crate) trait Runtime {
    /// The cell.
    fn cell(&self) -> &SarcenetCell;

    /// Starts a container that runs [`image::command`](crate::image::command).
    fn start(&self, wanted: Wanted<'_>) -> Result<()>;

    /// Starts it again after a reboot.
    fn start_again(&self, wanted: Wanted<'_>) -> Result<()>;

    /// Runs a program in a container to its end.
    fn exec(&self, name: &str, command: &[&str]) -> Result<Output>;

    /// Process identifier of a container's first process.
    fn init(&self, name: &str) -> Result<i32>;

    /// Ends a container, and takes away what there is of it; where the runtime itself does not call
    /// DEL, that is done by hand.
    fn remove(&self, name: &str) -> Result<()>;

    /// Loses what a reboot takes, and starts again. The containers of these names run.
    fn reboot(&mut self, running: &[&str]) -> Result<()>;

    /// Has the plugin collect what is not among no containers at all, for each network.
    fn collect(&self) -> Result<()>;

    /// Where everything is that is mounted for its containers.
    fn directory(&self) -> &Path;

    /// What the cell's agent knows of a container.
    fn info(&self, app: &str) -> Result<ContainerInfo> {
        let containers = self.cell().agent()?.containers()?;
        let found = containers.iter().find(|info| info.app.as_deref() == Some(app));
        found.cloned().with_context(|| format!("no container of {app} in {containers:?}"))
    }
}
