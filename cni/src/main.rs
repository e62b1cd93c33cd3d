//! The CNI plugin of Sarcenet, for specification versions 0.3.1, 0.4.0, 1.0.0 and 1.1.0.
//!
//! It parses what the container runtime says, asks the cell's agent, and prints the answer. It
//! keeps nothing and needs no rights beyond those of connecting to the agent and opening the
//! container's network namespace.
//!
//! Under the names `silk-cni`, `cni-wrapper-plugin` and `bandwidth` it takes the configuration of
//! those ([`program`]). Its network configuration:
//!
//! | key | meaning |
//! | --- | --- |
//! | `agentSocket` | the agent's socket; if not given `/run/sarcenet/agent.sock`, below `SARCENET_ROOT` of the environment |
//! | `attach` | `tun` (if not given) or `veth`: what the interface is made of |
//! | `mtu` | of the interface, if less than the cell's |
//! | `metadata.policy_group_id` | app that the container belongs to, as Garden passes it |
//! | `metadata`, also inside `runtimeConfig` | the rest of it: `space_id`, `container_workload` and so on choose the security groups |
//! | `identity` | what else says app, space and organization, see [`identity`] |
//! | `runtimeConfig.portMappings` | ports of the cell that lead to the container; `host_port` and `hostPort` spellings |
//! | `runtimeConfig.netOutRules` | rules for traffic to the outside, as Garden writes them; in force where the agent has no security groups |
//! | `runtimeConfig.bandwidth` | limits: `ingressRate`, `ingressBurst`, `egressRate`, `egressBurst` |
//! | `runtimeConfig.ips`, `args.cni.ips`, `IP` of `CNI_ARGS` | the address |
//! | `runtimeConfig.mac`, `MAC` of `CNI_ARGS` | the MAC address of a veth |
//! | `runtimeConfig.dns`, `dns` | name servers for the result, in place of the agent's, and the rest of `resolv.conf` |
#![forbid(unsafe_code)]

mod bandwidth;
mod environment;
mod failure;
mod identity;
mod netconf;
mod plugin;
mod previous;
mod program;
mod reply;
mod runtime;
mod version;
mod wrapper;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use crate::failure::{Code, Failure};
use crate::program::Program;

/// Longest configuration that is read, in bytes.
const CONFIGURATION_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(CONFIGURATION_MAX + 1).read_to_end(&mut input);
    let done = match read {
        Ok(length) if length as u64 > CONFIGURATION_MAX => Err(Failure::new(
            Code::Decode,
            "read the network configuration",
            format!("it is longer than {CONFIGURATION_MAX} bytes"),
        )),
        Ok(_) => {
            let program = Program::started_as(std::env::args_os().next().as_deref());
            plugin::run(program, &environment::Variables::from_process(), &input)
        }
        Err(error) => Err(Failure::new(Code::Io, "read the network configuration", error)),
    };
    let (text, status) = match done {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(failure) => {
            (failure.to_json(netconf::version_for_answers(&input).name()), ExitCode::FAILURE)
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => status,
        // Nobody reads; the exit status is all that is left to say.
        Err(_) => ExitCode::FAILURE,
    }
}
