//! Security groups of a world.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cell, POLICY_PATIENCE, World, eventually};
use crate::outside::SecurityGroup;
use crate::sarcenet::SarcenetCell;

impl World {
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
        for cell in &self.cells {
            if let Cell::Kernel(cell) = cell {
                cell.set_groups(&state.groups)?;
            }
        }
        let Some(servers) = &self.servers else {
            self.write_network_files(&state)?;
            return self.wait_read(&state, POLICY_PATIENCE);
        };
        servers.set_groups(&state.groups)?;
        // Others may change theirs meanwhile.
        drop(state);
        (0..self.cells.len()).try_for_each(|cell| self.wait_for_groups(cell))
    }

    /// Waits until a cell that asks the policy server has the security groups in force that its
    /// containers need, and none as it was before.
    pub(super) fn wait_for_groups(&self, number: usize) -> Result<()> {
        let (Cell::Sarcenet(cell), Some(_), Some(_)) =
            (&self.cells[number], &self.servers, &self.outside)
        else {
            return Ok(());
        };
        eventually(POLICY_PATIENCE, || {
            let state = self.state();
            let have = kept(cell)?;
            let name = &cell.plan().name;
            for inhabitant in state.spaces.iter().filter(|one| one.cell == number) {
                let needed = state.groups.iter().filter(|group| group.concerns(&inhabitant.space));
                for SecurityGroup { name: group, .. } in needed {
                    ensure!(have.contains_key(group), "{name} does not have the group {group}");
                }
            }
            for (group, have) in &have {
                let wanted = state.groups.iter().find(|wanted| wanted.name == *group);
                let wanted = wanted.map(SecurityGroup::told);
                ensure!(wanted.as_ref() == Some(have), "{name} has {have}, not {wanted:?}");
            }
            Ok(())
        })?;
        // The agent knows; now its dataplane too.
        cell.wait_ready()
    }
}

/// The security groups that a cell has kept, by name. What is kept was put in force before.
fn kept(cell: &SarcenetCell) -> Result<BTreeMap<String, Value>> {
    let path = cell.root().join("var/lib/sarcenet/followed.json");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let document = text.lines().nth(1).with_context(|| format!("{} is cut", path.display()))?;
    let mut document: Value =
        serde_json::from_str(document).with_context(|| format!("read {}", path.display()))?;
    let Value::Array(groups) = document["security_groups"].take() else {
        return Ok(BTreeMap::new());
    };
    let groups = groups.into_iter().map(|mut group| {
        let rules = group["rules"].as_str().context("a group's rules are a text")?;
        group["rules"] = serde_json::from_str(rules).context("read a group's rules")?;
        Ok((group["name"].as_str().unwrap_or_default().to_owned(), group))
    });
    groups.collect()
}
