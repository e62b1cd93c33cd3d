//! The commands.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::thread::sleep;
use std::time::Duration;

use sarcenet_agent_api::{
    AgentClient, AgentError, AgentStatus, Attach, Attachment, ErrorCode, Expected, Terms, Wishes,
};

use crate::bandwidth;
use crate::environment::{Command, Variables};
use crate::failure::{Code, Failure};
use crate::netconf::{self, NetConf};
use crate::program::Program;
use crate::reply;
use crate::version::Version;
use crate::wrapper::{self, Wrapper};

/// How often and how long STATUS waits for an agent that is about to have everything in force.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Does what the variables say; returns what to print.
pub(crate) fn run(
    program: Program,
    variables: &Variables,
    input: &[u8],
) -> Result<String, Failure> {
    let command = variables.command()?;
    if command == Command::Version {
        // The one command that a runtime may give before it knows what we speak.
        return Ok(reply::versions(netconf::version_for_answers(input)));
    }
    let call = Call { variables, netconf: NetConf::read(input)? };
    call.speaks(command)?;
    match (program, command) {
        (_, Command::Status) => call.status(),
        (Program::Bandwidth, _) => bandwidth::run(&call, command, input),
        (Program::Wrapper, _) => wrapper::run(&call, command, &Wrapper::read(input)?),
        (Program::Sarcenet | Program::Silk, Command::Add) => {
            let (attachment, netns) = call.attach(program, |_, _| ())?;
            call.result(&netns, &attachment, None)
        }
        (_, Command::Del) => call.del(),
        (_, Command::Check) => call.check(),
        (_, _) => call.gc(),
    }
}

/// One call for one container or, with GC and STATUS, a network.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) variables: &'a Variables,
    pub(crate) netconf: NetConf,
}

impl Call<'_> {
    /// Whether the version of the configuration has the command.
    fn speaks(&self, command: Command) -> Result<(), Failure> {
        let version = self.netconf.version;
        match command {
            Command::Check => version.has("CHECK", Version::V0_4_0),
            Command::Status => version.has("STATUS", Version::V1_1_0),
            Command::Gc => version.has("GC", Version::V1_1_0),
            Command::Add | Command::Del | Command::Version => Ok(()),
        }
    }

    /// Attaches the container; `further` may say more of it than the configuration does. Returns the
    /// path of its namespace, too.
    pub(crate) fn attach(
        &self,
        program: Program,
        further: impl FnOnce(&mut Terms, &mut Wishes),
    ) -> Result<(Attachment, String), Failure> {
        let id = self.variables.attachment()?;
        let netns = self.variables.netns()?.to_owned();
        let namespace = open(&netns)?;
        let mut terms = self.netconf.terms(self.variables)?;
        let mut wishes = self.netconf.wishes(self.variables)?;
        further(&mut terms, &mut wishes);
        let app = terms.metadata.policy_group_id.clone();
        let wish = Attach {
            id,
            network: self.netconf.name.clone(),
            netns_path: netns.clone(),
            app: app.filter(|app| !app.is_empty()),
            kind: self.netconf.attach().unwrap_or(program.attach()),
            wishes,
            terms,
        };
        let attached = self.connect()?.add(wish, namespace.as_fd());
        let attached = attached.map_err(|error| Failure::agent("attach the container", &error))?;
        Ok((attached, netns))
    }

    /// What ADD prints; name servers are `name_servers` if they are given.
    pub(crate) fn result(
        &self,
        netns: &str,
        attachment: &Attachment,
        name_servers: Option<Vec<String>>,
    ) -> Result<String, Failure> {
        let NetConf { version, .. } = self.netconf;
        let mut dns = self.netconf.dns();
        dns.servers = name_servers.unwrap_or(dns.servers);
        reply::added(version, netns, attachment, dns, self.netconf.previous())
    }

    /// Succeeds for what is not there, also without a namespace: the runtime may have lost it.
    pub(crate) fn del(&self) -> Result<String, Failure> {
        let id = self.variables.attachment()?;
        match self.connect()?.del(id) {
            Ok(()) | Err(AgentError::Refused { code: ErrorCode::Unknown, .. }) => Ok(String::new()),
            Err(error) => Err(Failure::agent("detach the container", &error)),
        }
    }

    pub(crate) fn check(&self) -> Result<String, Failure> {
        let id = self.variables.attachment()?;
        let expected = self.netconf.needed_previous("CHECK")?.expected(&id.ifname)?;
        self.check_against(expected)
    }

    /// Has the agent compare the interface with what it is and with what is `expected`.
    pub(crate) fn check_against(&self, expected: Expected) -> Result<String, Failure> {
        let id = self.variables.attachment()?;
        let namespace = open(self.variables.netns()?)?;
        let checked = self.connect()?.check(id, expected, namespace.as_fd());
        checked.map_err(|error| Failure::agent("check the container", &error))?;
        Ok(String::new())
    }

    /// Whether an ADD would find agent, dataplane and an address.
    fn status(&self) -> Result<String, Failure> {
        let mut agent = self.connect().map_err(|failure| failure.with_code(Code::Unavailable))?;
        let mut ask = || -> Result<AgentStatus, Failure> {
            agent.status().map_err(|error| {
                Failure::agent("ask the agent how it is", &error).with_code(Code::Unavailable)
            })
        };
        let mut status = ask()?;
        for _ in 0..LOOKS {
            // A change that is on its way is there in a moment, and is no reason to send anybody away.
            if status.dataplane.ready || status.dataplane.error.is_some() {
                break;
            }
            sleep(BETWEEN_LOOKS);
            status = ask()?;
        }
        if !status.dataplane.ready {
            let why = status.dataplane.error.unwrap_or_else(|| "the agent waits for it".to_owned());
            return Err(Failure::new(Code::Disconnected, "the dataplane is not ready", why));
        }
        if status.addresses_free == 0 {
            let why = format!("all addresses of {} are taken", status.subnet);
            return Err(Failure::new(Code::Unavailable, "the cell has no free address", why));
        }
        Ok(String::new())
    }

    pub(crate) fn gc(&self) -> Result<String, Failure> {
        let valid = self.netconf.valid_attachments()?;
        let collected = self.connect()?.gc(self.netconf.name.clone(), valid);
        collected.map_err(|error| Failure::agent("remove stale containers", &error))?;
        Ok(String::new())
    }

    pub(crate) fn connect(&self) -> Result<AgentClient, Failure> {
        AgentClient::connect(&self.netconf.agent_socket(self.variables))
            .map_err(|error| Failure::agent("ask the agent", &error))
    }
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
