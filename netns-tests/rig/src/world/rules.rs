//! Policies of a world, and the network files of its cells.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use sarcenet_agent_api::Policy;

use super::{BULK_PATIENCE, Cell, POLICY_PATIENCE, State, World, eventually};
use crate::outside::OutsideHost;
use crate::plan::CellPlan;
use crate::servers::Servers;

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
        if let Some(servers) = &self.servers {
            self.tag(servers, &mut state, policies)?;
            servers.change(policies, allow)?;
        } else if let Some(first) = self.sarcenet_cells().next() {
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
        let before: BTreeSet<Policy> =
            std::mem::replace(&mut state.policies, policies.to_vec()).into_iter().collect();
        let wanted: BTreeSet<Policy> = policies.iter().cloned().collect();
        for cell in &self.cells {
            if let Cell::Kernel(cell) = cell {
                cell.set_policies(policies)?;
            }
        }
        if let Some(servers) = &self.servers {
            self.tag(servers, &mut state, policies)?;
            for (from, to, allow) in [(&before, &wanted, false), (&wanted, &before, true)] {
                let changed: Vec<_> = from.difference(to).cloned().collect();
                if !changed.is_empty() {
                    servers.change(&changed, allow)?;
                }
            }
        }
        self.write_network_files(&state)?;
        self.wait_read(&state, BULK_PATIENCE)?;
        for cell in self.sarcenet_cells() {
            eventually(BULK_PATIENCE, || {
                let mut agent = cell.agent()?;
                let have = agent.status()?.policies as usize;
                let name = &cell.plan().name;
                ensure!(have == wanted.len(), "{name} has {have} of {} policies", wanted.len());
                // The others before may have been as many.
                let have: BTreeSet<Policy> = agent.policies()?.into_iter().collect();
                ensure!(have == wanted, "{name} has other policies");
                Ok(())
            })?;
            cell.wait_ready()?;
        }
        Ok(())
    }

    /// Has the servers give the plan's apps, up to the last one that these policies name, the tags
    /// of the plan: they give them in the order in which they are asked.
    fn tag(&self, servers: &Servers, state: &mut State, policies: &[Policy]) -> Result<()> {
        let apps = &self.plan.apps;
        let named: BTreeSet<&str> =
            policies.iter().flat_map(|policy| [&*policy.from, &*policy.to]).collect();
        let last = apps.iter().rposition(|app| named.contains(&*app.id));
        let wanted = last.map_or(0, |last| last + 1);
        if let Some(new) = apps.get(state.apps_tagged..wanted).filter(|new| !new.is_empty()) {
            servers.tag(new)?;
            state.apps_tagged = wanted;
        }
        Ok(())
    }

    /// The servers.
    pub fn servers(&self) -> Result<&Servers> {
        self.servers.as_ref().context("the plan has no servers")
    }

    /// The host outside.
    pub fn outside(&self) -> Result<&OutsideHost> {
        self.outside.as_ref().context("the plan has no outside")
    }

    /// Waits until each Sarcenet cell has in force what its network file says.
    pub(super) fn wait_read(&self, state: &State, patience: Duration) -> Result<()> {
        for cell in self.sarcenet_cells() {
            let text = self.network_text(state, cell.plan());
            let digest = digest(&SHA256, text.as_bytes());
            let digest = digest.as_ref().iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            eventually(patience, || {
                let status = cell.agent()?.status()?.config;
                ensure!(
                    status.digest == digest,
                    "{} has not read its network file; mistakes in {}: {:?}",
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

    fn network_text(&self, state: &State, cell: &CellPlan) -> String {
        match &self.servers {
            Some(_) => {
                let asks_for_groups = self.plan.outside.is_some();
                Servers::network_file(cell, asks_for_groups) + &self.plan.local_part()
            }
            None => self.plan.network_file(&state.policies, &state.groups),
        }
    }

    /// Writes policies and security groups for the agents to read.
    pub(super) fn write_network_files(&self, state: &State) -> Result<()> {
        for cell in self.plan.cell_plans() {
            let file = self.network_file_of(&cell);
            // Whoever reads the file must never see half of it.
            let new = file.with_extension("yaml.new");
            let directory = file.parent().unwrap_or(&self.directory);
            std::fs::create_dir_all(directory)
                .and_then(|()| std::fs::write(&new, self.network_text(state, &cell)))
                .and_then(|()| std::fs::rename(&new, &file))
                .with_context(|| format!("write {}", file.display()))?;
            if self.servers.is_none() {
                break;
            }
        }
        Ok(())
    }
}
