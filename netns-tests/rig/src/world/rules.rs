//! Policies and security groups of a world, and the network file that names them.

use anyhow::{Context as _, Result, ensure};
use sarcenet_agent_api::Policy;

use super::{BULK_PATIENCE, Cell, POLICY_PATIENCE, State, World, eventually};
use crate::outside::{OutsideHost, SecurityGroup};
use crate::plan::tcp;

/// An app without containers. Its policy with itself tells how new an agent's configuration is.
pub(super) const NOBODY: &str = "nobody";

impl World {
    /// Puts policies in force on every cell, and returns when they are.
    pub fn allow(&self, policies: &[Policy]) -> Result<()> {
        self.change(policies, true)
    }

    /// Takes them out of force on every cell, and returns when they are.
    pub fn revoke(&self, policies: &[Policy]) -> Result<()> {
        self.change(policies, false)
    }

    fn change(&self, policies: &[Policy], allow: bool) -> Result<()> {
        let mut state = self.state();
        state.policies.retain(|policy| !policies.contains(policy));
        if allow {
            state.policies.extend_from_slice(policies);
        }
        for cell in &self.cells {
            if let Cell::Kernel(cell) = cell {
                cell.set_policies(&state.policies)?;
            }
        }
        if let Some(first) = self.sarcenet_cells().next() {
            for policy in policies {
                first.change_policy(policy, allow)?;
            }
        }
        for cell in self.sarcenet_cells() {
            eventually(POLICY_PATIENCE, || {
                let have = cell.policies()?;
                let done = policies.iter().all(|policy| have.contains(policy) == allow);
                ensure!(done, "{} has the policies {have:?}", cell.plan().name);
                Ok(())
            })
            .with_context(|| format!("allow={allow} {policies:?}"))?;
            // The agent knows; now its dataplane too.
            cell.wait_ready()?;
        }
        Ok(())
    }

    /// Puts exactly these policies in force on every cell, however many, and returns when they
    /// are.
    pub fn enforce(&self, policies: &[Policy]) -> Result<()> {
        let mut state = self.state();
        state.policies = policies.to_vec();
        for cell in &self.cells {
            if let Cell::Kernel(cell) = cell {
                cell.set_policies(policies)?;
            }
        }
        self.write_network_file(&state)?;
        let expected = policies.len() + usize::from(state.newest().is_some());
        for cell in self.sarcenet_cells() {
            eventually(BULK_PATIENCE, || {
                let status = cell.agent()?.status()?;
                ensure!(
                    status.policies as usize == expected && status.dataplane.ready,
                    "{} has {} of {} policies; mistakes in {}: {:?}",
                    cell.plan().name,
                    status.policies,
                    expected,
                    status.config.path,
                    status.config.mistakes
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The host outside.
    pub fn outside(&self) -> Result<&OutsideHost> {
        self.outside.as_ref().context("the plan has no outside")
    }

    /// Puts a security group in force on every cell instead of the one of that name, if there is
    /// one, and returns when it is.
    pub fn bind(&self, group: SecurityGroup) -> Result<()> {
        self.change_groups(|groups| {
            match groups.iter_mut().find(|known| known.name == group.name) {
                Some(known) => *known = group,
                None => groups.push(group),
            }
        })
    }

    /// Takes a security group out of force on every cell, and returns when it is.
    pub fn unbind(&self, name: &str) -> Result<()> {
        self.change_groups(|groups| groups.retain(|group| group.name != name))
    }

    fn change_groups(&self, change: impl FnOnce(&mut Vec<SecurityGroup>)) -> Result<()> {
        self.outside()?;
        let mut state = self.state();
        change(&mut state.groups);
        state.revision += 1;
        for cell in &self.cells {
            if let Cell::Kernel(cell) = cell {
                cell.set_groups(&state.groups)?;
            }
        }
        self.write_network_file(&state)?;
        let newest = state.newest();
        for cell in self.sarcenet_cells() {
            eventually(POLICY_PATIENCE, || {
                let status = cell.agent()?.status()?.config;
                ensure!(
                    newest.iter().all(|policy| cell.policies().is_ok_and(|p| p.contains(policy))),
                    "{} has not read the security groups; mistakes in {}: {:?}",
                    cell.plan().name,
                    status.path,
                    status.mistakes
                );
                Ok(())
            })?;
            // The agent knows; now its dataplane too.
            cell.wait_ready()?;
        }
        Ok(())
    }

    /// Writes policies and security groups for the agents to read.
    pub(super) fn write_network_file(&self, state: &State) -> Result<()> {
        let mut policies = state.policies.clone();
        policies.extend(state.newest());
        // Whoever reads the file must never see half of it.
        let (file, new) = (self.network_file(), self.directory.join("network.yaml.new"));
        std::fs::write(&new, self.plan.network_file(&policies, &state.groups))
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("write {}", file.display()))
    }
}

impl State {
    /// The policy that only the newest network file has, if security groups have ever changed.
    pub(super) fn newest(&self) -> Option<Policy> {
        (self.revision > 0).then(|| tcp(NOBODY, NOBODY, self.revision..=self.revision))
    }
}
