//! The cells, servers, containers and programs of the story.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use sarcenet_rig::{CellKind, Container, ContainerSpec, OutsidePlan, Plan, SarcenetCell, World};

/// Begins the names of the demo's namespaces.
pub(super) const LABEL: &str = "demo";
/// Port on which every app serves HTTP.
pub(super) const APP_PORT: u16 = 8080;
/// Port of the first cell that leads to app-b there.
pub(super) const MAPPED_PORT: u16 = 61_001;
/// Space of app-a, to which security groups are bound.
pub(super) const SPACE: &str = "space-a";
/// Port of the bulk transfers.
pub(super) const BULK_PORT: u16 = 5201;
/// The apps and their tags.
pub(super) const APPS: [(&str, u16); 3] = [("app-a", 1), ("app-b", 2), ("app-c", 3)];

/// Two Sarcenet cells: app-a and an instance of app-b on the first, another instance of app-b and
/// app-c on the second.
pub(super) struct Setting {
    pub(super) world: World,
    pub(super) a: Container,
    pub(super) b_near: Container,
    pub(super) b_far: Container,
    pub(super) c: Container,
}

impl Setting {
    pub(super) fn build() -> Result<Self> {
        let plan = Plan::new(LABEL, &[CellKind::Sarcenet, CellKind::Sarcenet])
            .apps(APPS)
            .outside(OutsidePlan::default());
        let world = World::new(plan)?;
        let a = world.attach_as(0, &ContainerSpec::app("app-a").space(SPACE))?;
        let mapped = ContainerSpec::app("app-b").mapping(MAPPED_PORT, APP_PORT);
        let b_near = world.attach_as(0, &mapped)?;
        let b_far = world.attach(1, Some("app-b"))?;
        let c = world.attach(1, Some("app-c"))?;
        Ok(Self { world, a, b_near, b_far, c })
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &Container> {
        [&self.a, &self.b_near, &self.b_far, &self.c].into_iter()
    }

    /// The first cell, where the operator's commands are given.
    pub(super) fn cell(&self) -> Result<&SarcenetCell> {
        self.world.sarcenet_cells().next().context("the demo has a Sarcenet cell")
    }

    pub(super) fn describe(&self) {
        println!(
            "sarcenet control: policy server and subnet controller, asked over mTLS with certificates \
             of sarcenet certs init.\nNo file of a cell names cells, apps, policies or security \
             groups: all come from there."
        );
        for (number, cell) in self.world.cells().iter().enumerate() {
            let plan = cell.plan();
            let containers: Vec<String> = self
                .containers()
                .filter(|container| container.cell() == number)
                .map(|c| format!("{} {}", c.app().unwrap_or_default(), c.address()))
                .collect();
            println!(
                "{} on {} with {}: {}",
                plan.name,
                plan.underlay,
                plan.subnet,
                containers.join(", ")
            );
        }
    }

    /// The operator's command `sarcenet policy`, to the policy server; it must succeed.
    pub(super) fn policy(&self, arguments: &[&str]) -> Result<()> {
        let servers = self.world.servers()?;
        let mut command = Command::new(&self.cell()?.binaries().sarcenet);
        command.args(arguments).args(servers.operator());
        servers.namespace().checked(&mut command).map(drop)
    }

    /// Leaves it running, with a server in every container and app-a allowed to reach app-b.
    pub(super) fn keep(self) -> Result<()> {
        let cell = self.cell()?;
        let sarcenet = cell.binaries().sarcenet.display().to_string();
        self.policy(&policy("allow", "app-a", "app-b", "8080"))?;
        for container in self.containers() {
            container.spawn(
                Command::new(&sarcenet)
                    .args(["demo", "--serve", container.app().unwrap_or_default()])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null()),
            )?;
        }
        println!("\nLeft running. app-a may reach app-b; everything else is refused:");
        let inside = format!("ip netns exec {}", self.a.namespace().name());
        for target in [&self.b_near, &self.b_far, &self.c] {
            println!(
                "  {inside} curl -sS http://{}:{APP_PORT}/    # {}",
                target.address(),
                target.app().unwrap_or_default()
            );
        }
        println!("Look at the cells:");
        for cell in self.world.sarcenet_cells() {
            let root = cell.root().display();
            for command in ["status", "containers", "flows", "policy list"] {
                println!("  {sarcenet} --root {root} {command}");
            }
        }
        let servers = self.world.servers()?;
        let inside = format!("ip netns exec {}", servers.namespace().name());
        let operator: Vec<_> =
            servers.operator().iter().map(|word| word.display().to_string()).collect();
        println!(
            "Ask the policy server:\n  {inside} {sarcenet} policy list {}",
            operator.join(" ")
        );
        println!("Follow packets, then run one of the curl lines in another terminal:");
        println!("  {sarcenet} --root {} trace --from {}", cell.root().display(), self.a.address());
        println!("End it:\n  {sarcenet} demo --end");
        self.world.keep()
    }
}

/// The arguments of `sarcenet policy`.
pub(super) fn policy<'a>(
    verb: &'a str,
    from: &'a str,
    to: &'a str,
    ports: &'a str,
) -> [&'a str; 10] {
    ["policy", verb, "--from", from, "--to", to, "--protocol", "tcp", "--ports", ports]
}
