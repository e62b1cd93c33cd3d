//! The commands.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use sarcenet_agent_api::{AgentClient, AgentError, Attach, ErrorCode};

use crate::environment::{Command, Variables};
use crate::failure::{Code, Failure};
use crate::netconf::{self, NetConf, VERSION_1_1};
use crate::reply;

/// Does what the variables say; returns what to print.
pub(crate) fn run(variables: &Variables, input: &[u8]) -> Result<String, Failure> {
    match variables.command()? {
        // The one command that a runtime may give before it knows what we speak.
        Command::Version => Ok(reply::versions(&netconf::version_for_errors(input))),
        Command::Add => add(variables, &NetConf::read(input)?),
        Command::Del => del(variables, &NetConf::read(input)?),
        Command::Check => check(variables, &NetConf::read(input)?),
        Command::Status => status(&NetConf::read(input)?),
        Command::Gc => gc(NetConf::read(input)?),
    }
}

fn add(variables: &Variables, netconf: &NetConf) -> Result<String, Failure> {
    let id = variables.attachment()?;
    let netns = variables.netns()?;
    let namespace = open(netns)?;
    let wish = Attach {
        id,
        netns_path: netns.to_owned(),
        app: netconf.app(),
        kind: netconf.attach,
        terms: netconf.terms()?,
    };
    let attached = connect(netconf)?.add(wish, namespace.as_fd());
    let attachment = attached.map_err(|error| Failure::agent("attach the container", &error))?;
    Ok(reply::added(&netconf.cni_version, netns, &attachment, netconf.dns()))
}

/// Succeeds for what is not there, also without a namespace: the runtime may have lost it.
fn del(variables: &Variables, netconf: &NetConf) -> Result<String, Failure> {
    let id = variables.attachment()?;
    match connect(netconf)?.del(id) {
        Ok(()) | Err(AgentError::Refused { code: ErrorCode::Unknown, .. }) => Ok(String::new()),
        Err(error) => Err(Failure::agent("detach the container", &error)),
    }
}

fn check(variables: &Variables, netconf: &NetConf) -> Result<String, Failure> {
    let id = variables.attachment()?;
    let address = netconf.previous_address()?;
    let namespace = open(variables.netns()?)?;
    let checked = connect(netconf)?.check(id, address, namespace.as_fd());
    checked.map_err(|error| Failure::agent("check the container", &error))?;
    Ok(String::new())
}

fn status(netconf: &NetConf) -> Result<String, Failure> {
    since_1_1(netconf, "STATUS")?;
    let status = connect(netconf)
        .map_err(|failure| failure.with_code(Code::Unavailable))?
        .status()
        .map_err(|error| {
            Failure::agent("ask the agent how it is", &error).with_code(Code::Unavailable)
        })?;
    if status.dataplane.ready {
        return Ok(String::new());
    }
    Err(Failure::new(
        Code::Unavailable,
        "the dataplane is not ready",
        status.dataplane.error.unwrap_or_else(|| "the agent waits for it".to_owned()),
    ))
}

fn gc(netconf: NetConf) -> Result<String, Failure> {
    since_1_1(&netconf, "GC")?;
    let mut agent = connect(&netconf)?;
    let collected = agent.gc(netconf.valid_attachments()?);
    collected.map_err(|error| Failure::agent("remove stale containers", &error))?;
    Ok(String::new())
}

fn connect(netconf: &NetConf) -> Result<AgentClient, Failure> {
    AgentClient::connect(&netconf.agent_socket())
        .map_err(|error| Failure::agent("ask the agent", &error))
}

fn open(netns: &str) -> Result<File, Failure> {
    File::open(netns).map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("there is no {netns}; has the container ended?"),
            _ => format!("cannot open {netns}: {error}"),
        };
        Failure::new(Code::Environment, "the variable CNI_NETNS is invalid", why)
    })
}

fn since_1_1(netconf: &NetConf, command: &str) -> Result<(), Failure> {
    if netconf.cni_version == VERSION_1_1 {
        return Ok(());
    }
    Err(Failure::new(
        Code::IncompatibleVersion,
        "incompatible CNI version",
        format!("{command} came with {VERSION_1_1}; cniVersion is `{}`", netconf.cni_version),
    ))
}
