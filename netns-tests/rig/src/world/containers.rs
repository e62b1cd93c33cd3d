//! Containers of a world.

use anyhow::{Context as _, Result};

use super::{Cell, World};
use crate::container::Container;
use crate::outside::{ContainerSpec, unlimited_icmp_errors};
use crate::plan::AppTag;

/// A container of a space.
#[derive(Debug)]
pub(super) struct Inhabitant {
    pub(super) cell: usize,
    pub(super) handle: String,
    pub(super) space: String,
}

impl World {
    /// An app of the plan that nobody has been given before.
    pub fn take_app(&self) -> Result<AppTag> {
        let mut state = self.state();
        let app = self.plan.apps.get(state.apps_taken).context("the plan has no app left")?;
        state.apps_taken += 1;
        Ok(app.clone())
    }

    /// Makes a container of an app on a cell.
    pub fn attach(&self, cell: usize, app: Option<&str>) -> Result<Container> {
        let app = app.map(str::to_owned);
        self.attach_as(cell, &ContainerSpec { app, ..ContainerSpec::default() })
    }

    /// Makes a container on a cell.
    pub fn attach_as(&self, cell: usize, spec: &ContainerSpec) -> Result<Container> {
        let number = {
            let mut state = self.state();
            state.containers += 1;
            state.containers
        };
        let on = &self.cells[cell];
        let namespace = self.create_namespace(&format!("{}-{number}", on.plan().name))?;
        if self.outside.is_some() {
            unlimited_icmp_errors(&namespace)?;
        }
        // A Garden handle: 8-4-4-4-4 hex digits, different in the first ones, because chain names
        // are made of those.
        let handle = format!("{number:08x}-5ace-4e70-8000-{:04x}", std::process::id() & 0xffff);
        let attachment = match on {
            Cell::Sarcenet(on) => on.attach(&namespace, &handle, spec, self.plan.attach),
            Cell::Kernel(on) => on.attach(&namespace, &handle, spec),
        }
        .with_context(|| format!("attach a container to {}", on.plan().name))?;
        if let Some(space) = spec.space.clone() {
            self.state().spaces.push(Inhabitant { cell, handle: handle.clone(), space });
            self.wait_for_groups(cell)?;
        }
        Ok(Container { namespace, handle, app: spec.app.clone(), cell, attachment })
    }

    /// Detaches a container of a Sarcenet cell.
    pub fn detach(&self, container: &Container) -> Result<()> {
        match &self.cells[container.cell] {
            Cell::Sarcenet(cell) => {
                self.state().spaces.retain(|inhabitant| inhabitant.handle != container.handle);
                cell.detach(&container.namespace, &container.handle)
            }
            Cell::Kernel(_) => anyhow::bail!("kernel cells keep their containers"),
        }
    }
}
