//! The setting of most tests: a sender on one cell, and a receiver on another.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sarcenet_rig::{Container, Plan, Policy, SarcenetCell, World, eventually};

/// How long anything may take that must come about. It only ends a test that has failed: a busy
/// machine may be late for everything, so nothing is to be concluded from less.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The same for what ends with a namespace. The kernel clears namespaces away one after the other,
/// and other tests end theirs at the same time.
pub const CLEARED_AWAY: Duration = Duration::from_mins(1);

/// app-1 on the first cell and app-2 on the second.
pub struct Setting {
    /// The cells.
    pub world: World,
    /// The container of app-1.
    pub from: Container,
    /// The container of app-2.
    pub to: Container,
}

impl Setting {
    /// Builds a world of Sarcenet cells with these policies in force.
    ///
    /// # Errors
    /// What could not be made.
    pub fn build(plan: Plan, policies: &[Policy]) -> Result<Self> {
        let world = World::new(plan)?;
        let from = world.attach(0, Some("app-1"))?;
        let to = world.attach(1, Some("app-2"))?;
        world.allow(policies)?;
        Ok(Self { world, from, to })
    }

    /// Builds it for a test, which fails with the logs of all cells.
    pub fn told(plan: Plan, policies: &[Policy], test: impl FnOnce(&Self) -> Result<()>) {
        let setting = Self::build(plan, policies).unwrap_or_else(|error| panic!("{error:#}"));
        test(&setting).unwrap_or_else(|error| panic!("{}\n{error:#}", setting.world.logs()));
    }

    /// Both cells, the sender's first.
    ///
    /// # Errors
    /// There are not two.
    pub fn cells(&self) -> Result<[&SarcenetCell; 2]> {
        let cells: Vec<_> = self.world.sarcenet_cells().collect();
        cells.try_into().ok().context("two Sarcenet cells")
    }

    /// Waits until both cells have a policy for this port on their disks, which is soon after it is in
    /// force: agents that are killed then bring it back.
    ///
    /// # Errors
    /// One has not, or cannot be looked at.
    pub fn on_disk(&self, port: u16) -> Result<()> {
        for cell in self.cells()? {
            let path = cell.root().join("var/lib/sarcenet/followed.json");
            eventually(PATIENCE, || {
                let text = std::fs::read_to_string(&path)?;
                ensure!(text.contains(&format!("\"start\":{port}")), "{}: {text}", path.display());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// A port of the receiver.
    pub fn target(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.to.address(), port)
    }
}

/// Index of a container's interface; another one means that it was made anew.
///
/// # Errors
/// It is gone.
pub fn interface(container: &Container) -> Result<u32> {
    container
        .namespace()
        .run(|| nix::net::if_::if_nametoindex("eth0"))?
        .context("the container has lost its eth0")
}
