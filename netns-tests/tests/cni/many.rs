//! Fifty containers that start and end at the same time, each by a plugin of its own.

use std::collections::BTreeSet;
use std::sync::Barrier;

use anyhow::{Result, ensure};
use sarcenet_cni_chain::{Extra, List};
use sarcenet_rig::{CellKind, Plan};
use serde_json::json;

use crate::{KINDS, Sandbox, Setting, address, list, on_cell, socket};

const CONTAINERS: usize = 50;

/// Does `work` for all containers in the same moment; returns what it returned, in their order.
fn at_once<T: Send>(
    containers: &[Sandbox],
    work: impl Fn(usize, &Sandbox) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let start = Barrier::new(containers.len());
    let (start, work) = (&start, &work);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..)
            .zip(containers)
            .map(|(number, container)| {
                scope.spawn(move || {
                    start.wait();
                    work(number, container)
                })
            })
            .collect();
        all.into_iter().map(crate::joined).collect()
    })
}

fn networks(setting: &Setting<'_>) -> Result<Vec<List>> {
    let network = |kind| {
        list(&json!({
            "cniVersion": "1.1.0",
            "name": format!("net-{kind}"),
            "plugins": [
                {"type": "sarcenet-cni", "agentSocket": socket(setting.cell), "attach": kind},
            ],
        }))
    };
    KINDS.into_iter().map(network).collect()
}

#[test]
fn fifty_at_once() {
    on_cell(Plan::new("cm", &[CellKind::Sarcenet]).from_files(), |setting| {
        let networks = networks(setting)?;
        let containers = (0..CONTAINERS).map(|number| Sandbox::new(&format!("c{number}")));
        let containers: Vec<_> = containers.collect::<Result<_>>()?;
        let made = at_once(&containers, |number, container| {
            let chain = setting.chain(&networks[number % networks.len()], container, &[]);
            address(&chain.add(&Extra::default())?)
        })?;
        let distinct: BTreeSet<_> = made.iter().collect();
        ensure!(distinct.len() == CONTAINERS, "{made:?}");
        let known = setting.cell.agent()?.containers()?;
        ensure!(known.len() == CONTAINERS && known.iter().all(|c| c.connected), "{known:?}");
        at_once(&containers, |number, container| {
            let chain = setting.chain(&networks[number % networks.len()], container, &[]);
            chain.check()?;
            Ok(chain.del()?)
        })?;
        setting.is_clean(&containers)
    });
}
