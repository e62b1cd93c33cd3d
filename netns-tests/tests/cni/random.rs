//! Containers that come and go at random while plugins and the agent are killed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use sarcenet_cni_chain::{Extra, List};
use sarcenet_netns_tests::PATIENCE;
use sarcenet_rig::{CellKind, Plan, eventually};
use serde_json::json;

use crate::{KINDS, Sandbox, Setting, address, list, on_cell, socket};

/// How many commands there are, unless the environment says another number.
const OPERATIONS: usize = 300;
const VARIABLE: &str = "SARCENET_CNI_OPERATIONS";
/// Who calls at the same time, and how many containers each has.
const CALLERS: usize = 6;
const EACH: usize = 5;
/// The agent is killed after so many commands.
const AGENT_LIVES: usize = 50;
/// Of so many plugins one is killed, within so many milliseconds.
const KILLED: u64 = 3;
const LONGEST_LIFE_MS: u64 = 40;

/// The same numbers every time; that threads race is random enough.
struct Dice(u64);

impl Dice {
    /// A number below `bound`.
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Runs the plugin, but kills it after `LIFE` seconds.
fn mortal(setting: &Setting<'_>) -> Result<()> {
    let plugin = &setting.cell.binaries().cni;
    let path = setting.plugins.join("mortal");
    let script = format!("#!/bin/sh\nexec timeout -s KILL \"$LIFE\" {}\n", plugin.display());
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Addresses of containers whose ADD has succeeded, and whose DEL has not been asked for since.
type Given = Mutex<BTreeMap<String, String>>;

fn locked(given: &Given) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
    given.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn call(
    setting: &Setting<'_>,
    networks: &[List],
    containers: &[Sandbox],
    dice: &mut Dice,
    given: &Given,
) -> Result<()> {
    let index = dice.roll(containers.len() as u64) as usize;
    let (container, network) = (&containers[index], &networks[index % networks.len()]);
    // A lifetime of 0 is none.
    let life = if dice.roll(KILLED) == 0 { 1 + dice.roll(LONGEST_LIFE_MS) } else { 0 };
    let life = OsString::from(format!("{}", life as f64 / 1000.0));
    let variables = [("LIFE", life.as_os_str())];
    let chain = setting.chain(network, container, &variables);
    if dice.roll(2) == 0 {
        // Whoever is killed or finds no agent has failed, and nothing is known of the outcome.
        let Ok(made) = chain.add(&Extra::default()) else { return Ok(()) };
        let made = address(&made)?;
        let twice = locked(given).insert(made.clone(), container.name.clone());
        let twice = twice.filter(|other| *other != container.name);
        ensure!(twice.is_none(), "{made} of {twice:?} was given to {}, too", container.name);
    } else {
        locked(given).retain(|_, holder| *holder != container.name);
        let _ = chain.del();
    }
    Ok(())
}

#[test]
fn no_address_is_given_twice_and_nothing_is_left_behind() {
    let operations = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
    let operations: usize = operations.unwrap_or(OPERATIONS);
    on_cell(Plan::new("cr", &[CellKind::Sarcenet]), |setting| {
        mortal(setting)?;
        let cell = setting.cell;
        let networks: Vec<_> = KINDS
            .iter()
            .map(|kind| {
                list(&json!({
                    "cniVersion": "1.1.0",
                    "name": format!("net-{kind}"),
                    "plugins": [
                        {"type": "mortal", "agentSocket": socket(cell), "attach": kind},
                    ],
                }))
            })
            .collect::<Result<_>>()?;
        let names = (0..CALLERS).map(|caller| {
            (0..EACH).map(move |number| Sandbox::new(&format!("c{caller}-{number}"))).collect()
        });
        let containers: Vec<Vec<Sandbox>> = names.collect::<Result<_>>()?;
        let (given, done, killing) = (Given::default(), AtomicUsize::new(0), Mutex::new(()));
        let (setting, networks, given, done) = (&setting, &networks, &given, &done);
        let killing = &killing;
        std::thread::scope(|scope| {
            let callers: Vec<_> = containers
                .iter()
                .enumerate()
                .map(|(caller, containers)| {
                    scope.spawn(move || -> Result<()> {
                        let mut dice = Dice(caller as u64);
                        loop {
                            let number = done.fetch_add(1, Ordering::Relaxed);
                            if number >= operations {
                                return Ok(());
                            }
                            if number % AGENT_LIVES == AGENT_LIVES - 1 {
                                let _one_at_a_time = killing.lock();
                                setting.cell.kill_agent()?;
                                setting.cell.restart_agent()?;
                            }
                            call(setting, networks, containers, &mut dice, given)?;
                        }
                    })
                })
                .collect();
            callers.into_iter().try_for_each(crate::joined)
        })?;
        cell.wait_ready()?;

        // What was there when nobody was killed any more is whole, and everybody has its own.
        let all: Vec<_> = containers.into_iter().flatten().collect();
        let immortal = [("LIFE", "0".as_ref())];
        let mut addresses = BTreeMap::new();
        for (index, container) in all.iter().enumerate() {
            let network = &networks[index % EACH % networks.len()];
            let chain = setting.chain(network, container, &immortal);
            let made = address(&eventually(PATIENCE, || Ok(chain.add(&Extra::default())?))?)?;
            chain.check().with_context(|| format!("check {}", container.name))?;
            let twice = addresses.insert(made.clone(), &container.name);
            ensure!(twice.is_none(), "{made} of {twice:?} was given to {}, too", container.name);
        }
        // Half of them go by DEL, the others are collected.
        for (index, container) in all.iter().enumerate().take(all.len() / 2) {
            setting.chain(&networks[index % EACH % networks.len()], container, &immortal).del()?;
        }
        for network in networks {
            setting.chain(network, &all[0], &immortal).gc(&[])?;
        }
        setting.is_clean(&all)
    });
}
