//! Garden's external networker (contract section 8), which a cell's Garden runs for every container
//! that comes or goes.
//!
//! It mounts the container's network namespace where CNI plugins find it, gives it ports of the
//! cell, runs the plugins of the network, and tells Garden what came of it. It is a drop-in for
//! Cloud Foundry's `garden-external-networker`, under that name too: same flags, configuration,
//! input and output. It needs no more rights than Garden itself has and is never setuid: what
//! needs others is done by the plugin and the cell's agent.
//!
//! | action | standard input | standard output |
//! | --- | --- | --- |
//! | `up` | process, properties, ports and rules of a container | its properties and resolver |
//! | `down` | not read | nothing |
//! | `net-in` | one more port | the same, with the port of the cell |
//! | `net-out` | one more rule for traffic to the outside | nothing |
//! | `bulk-net-out` | several such rules | nothing |
//!
//! The last three are beyond the contract's programs and go to the cell's agent, on the socket that
//! the network's configuration names as `agentSocket`, or the usual one.
//!
//! Every action may be repeated, whatever became of the one before: `up` keeps the ports that the
//! container has already, `down` succeeds when there is nothing left.
#![forbid(unsafe_code)]

mod actions;
mod agent;
mod arguments;
mod config;
mod failure;
mod handle_lock;
mod input;
mod json;
mod namespace;
mod ports;
mod result;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use crate::actions::Call;
use crate::arguments::Arguments;
use crate::config::ConfigFile;
use crate::failure::Failure;
use crate::handle_lock::HandleLock;
use crate::namespace::Namespace;

fn main() -> ExitCode {
    let inherited = Namespace::inherited();
    // Until the configuration says another one.
    let mut prefix = "cfnetworking".to_owned();
    let done = run(std::env::args_os().skip(1).collect(), inherited, &mut prefix);
    let done = done.and_then(|answer| {
        io::stdout().lock().write_all(answer.as_bytes()).map_err(Failure::Output)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When nobody reads, the exit status is all that is left to say.
            let _ = writeln!(io::stderr(), "{prefix}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the words say; returns what to print.
fn run(
    words: Vec<OsString>,
    inherited: Option<Namespace>,
    prefix: &mut String,
) -> Result<String, Failure> {
    if words.first().is_none_or(|word| word == "-h" || word == "--help") {
        return Err(Failure::Direct);
    }
    let arguments = Arguments::parse(words)?;
    arguments.check_config_file()?;
    let file = ConfigFile::read(Path::new(&arguments.config_file))?;
    if let Some(configured) = file.log_prefix() {
        configured.clone_into(prefix);
    }
    let config = file.config()?;
    arguments.check()?;
    let Arguments { action, handle, .. } = arguments;
    // It becomes the name of a file.
    if !sarcenet_agent_api::is_container_id(&handle) {
        return Err(Failure::Handle(handle));
    }
    let list = sarcenet_cni_chain::load(&config.cni_config_dir, &mut io::stderr())?;
    let call = Call { config: &config, list: list.as_ref(), handle: &handle };
    let locked = || HandleLock::take(&config.state_file, &handle);
    match action.as_str() {
        "up" => {
            let wish = input::read(input::Up::read)?;
            let _lock = locked()?;
            call.up(wish, inherited)
        }
        "down" => {
            let _lock = locked()?;
            call.down()
        }
        "net-in" => {
            let wish = input::read(input::net_in)?;
            let _lock = locked()?;
            call.net_in(wish)
        }
        "net-out" => {
            let rules = input::read(input::net_out)?;
            let _lock = locked()?;
            call.net_out("net-out", rules)
        }
        "bulk-net-out" => {
            let rules = input::read(input::bulk_net_out)?;
            let _lock = locked()?;
            call.net_out("bulk-net-out", rules)
        }
        _ => Err(Failure::Action(action)),
    }
}
