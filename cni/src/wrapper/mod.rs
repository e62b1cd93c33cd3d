//! `cni-wrapper-plugin`: attaches a container of Cloud Foundry's as its job's configuration says
//! (contract section 7).
//!
//! What the configuration has for iptables is of no use here: docs/cni.md names those keys. Keys that
//! the contract's plugin cannot do without are asked for all the same, so that a file that works here
//! works there.

mod config;
mod policy_agent;
mod store;

use std::collections::BTreeSet;
use std::io::{self, Write as _};

pub(crate) use config::Wrapper;

use crate::environment::Command;
use crate::failure::{Code, Failure};
use crate::plugin::Call;
use crate::program::Program;

pub(crate) fn run(call: &Call<'_>, command: Command, wrapper: &Wrapper) -> Result<String, Failure> {
    match command {
        Command::Add => add(call, wrapper),
        Command::Del => {
            let id = call.variables.attachment()?;
            // As in the contract no reason to fail: the entry is only told to others.
            if let Err(error) = wrapper.store(call.variables.root()).remove(&id.container) {
                note(&format!("store delete: {error}"));
            }
            call.del()
        }
        Command::Gc => {
            let valid = call.netconf.valid_attachments()?;
            let kept: BTreeSet<_> = valid.iter().map(|id| id.container.clone()).collect();
            call.gc()?;
            if let Err(error) = wrapper.store(call.variables.root()).retain(&kept) {
                note(&format!("store delete: {error}"));
            }
            Ok(String::new())
        }
        _ => call.check(),
    }
}

fn add(call: &Call<'_>, wrapper: &Wrapper) -> Result<String, Failure> {
    let (attachment, netns) = call.attach(Program::Wrapper, |terms, wishes| {
        terms.cell = wrapper.cell.clone();
        wishes.mtu = wrapper.mtu.or(wishes.mtu);
    })?;
    let container = &attachment.id.container;
    wrapper
        .store(call.variables.root())
        .add(container, attachment.address, wrapper.metadata.as_ref())
        .map_err(|error| Failure::new(Code::Wrapper, "store add", error))?;
    // The container starts with its policies and security groups in force.
    if let Some(address) = &wrapper.policy_agent {
        policy_agent::force(address, container)?;
    }
    call.result(&netns, &attachment, wrapper.name_servers())
}

/// Says what went wrong without being a reason to fail.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "cni-wrapper-plugin: {text}");
}
