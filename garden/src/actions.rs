//! What can be done for a container.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sarcenet_agent_api::{AgentError, ErrorCode, NetOutRule, PortMapping, Protocol};
use sarcenet_cni_chain::{Chain, Extra, List, RESULTS};
use serde::Serialize;
use serde_json::{Map, json};

use crate::agent;
use crate::config::Config;
use crate::failure::Failure;
use crate::input::{PortPair, Up};
use crate::namespace::{self, Namespace};
use crate::ports::Ports;
use crate::result::Answer;

/// The interface's name in every container.
pub(crate) const IFNAME: &str = "eth0";

/// One container and how to treat it. The caller holds its lock.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) config: &'a Config,
    /// None when there is no configuration of a network.
    pub(crate) list: Option<&'a List>,
    pub(crate) handle: &'a str,
}

/// The answer to `up`. Empty lists are left out: Garden then takes the cell's own.
#[derive(Serialize)]
struct UpAnswer<'a> {
    properties: Properties,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_servers: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    search_domains: &'a [String],
}

#[derive(Serialize)]
struct Properties {
    #[serde(rename = "garden.network.container-ip")]
    container_ip: String,
    #[serde(rename = "garden.network.host-ip")]
    host_ip: &'static str,
    #[serde(rename = "garden.network.mapped-ports")]
    mapped_ports: String,
    #[serde(rename = "garden.network.interface")]
    interface: String,
}

/// A port in the property, which is JSON inside a string.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MappedPort {
    host_port: u16,
    container_port: u16,
}

impl<'a> Call<'a> {
    /// Attaches the container (contract section 8.2). What a failure leaves behind is taken away by
    /// `down`, which Garden runs then, or used by another `up`.
    pub(crate) fn up(&self, wish: Up, inherited: Option<Namespace>) -> Result<String, Failure> {
        let Up { pid, properties, net_out, mut net_in } = wish;
        if self.config.proxy_redirect {
            return Err(Failure::ProxyRedirect);
        }
        let target = self.bind_mount();
        let (name, namespace) = Namespace::named(pid, inherited);
        namespace.and_then(|namespace| namespace.mount(&target)).map_err(|source| {
            Failure::Mount { namespace: name, target: target.display().to_string(), source }
        })?;
        self.fill_in(&mut net_in)?;
        let list = self.list.ok_or(Failure::NoNetwork)?;
        let runtime_config = Map::from_iter([
            ("portMappings".to_owned(), json!(net_in)),
            ("netOutRules".to_owned(), json!(net_out)),
        ]);
        let extra = Extra { metadata: properties, runtime_config, by_capability: false };
        let result = self.chain(list, &target).add(&extra).map_err(Failure::Up)?;
        let Answer { address, interface, name_servers } = Answer::read(result)?;
        let mapped: Vec<_> = net_in
            .iter()
            .map(|&PortPair { host_port, container_port }| MappedPort { host_port, container_port })
            .collect();
        line(&UpAnswer {
            properties: Properties {
                container_ip: address.to_string(),
                host_ip: "255.255.255.255",
                mapped_ports: serde_json::to_string(&mapped)?,
                interface,
            },
            dns_servers: name_servers,
            search_domains: &self.config.search_domains,
        })
    }

    /// Detaches the container (contract section 8.3). Its mount and its ports go last, so that a
    /// failure of the plugins can be followed by another `down`; their own failures are only told.
    pub(crate) fn down(&self) -> Result<String, Failure> {
        let target = self.bind_mount();
        if let Some(list) = self.list {
            self.chain(list, &target).del().map_err(Failure::Down)?;
        }
        if let Err(e) = namespace::remove(&target) {
            note(&format!("removing bind mount {}: {e}", target.display()));
        }
        if let Err(e) = self.ports().release_all(self.handle) {
            note(&format!("releasing ports: {e}"));
        }
        Ok(String::new())
    }

    /// Has one more port of the cell lead to the container.
    pub(crate) fn net_in(&self, wish: PortPair) -> Result<String, Failure> {
        let given = match wish.host_port {
            0 => Some(self.ports().add(self.handle)?),
            _ => None,
        };
        let host_port = given.unwrap_or(wish.host_port);
        let container_port = match wish.container_port {
            0 => host_port,
            port => port,
        };
        let mapping = PortMapping { protocol: Protocol::Tcp, host_port, container_port };
        let extended = self.extend("net-in", vec![mapping], Vec::new());
        if let (Err(failure), Some(port)) = (&extended, given)
            && !may_be_done(failure)
            && let Err(e) = self.ports().release(self.handle, port)
        {
            note(&format!("releasing port {port}: {e}"));
        }
        extended?;
        line(&PortPair { host_port, container_port })
    }

    /// Lets the container reach more of the outside.
    pub(crate) fn net_out(
        &self,
        action: &'static str,
        rules: Vec<NetOutRule>,
    ) -> Result<String, Failure> {
        self.extend(action, Vec::new(), rules)?;
        Ok(String::new())
    }

    fn extend(
        &self,
        action: &'static str,
        mappings: Vec<PortMapping>,
        net_out: Vec<NetOutRule>,
    ) -> Result<(), Failure> {
        agent::extend(&agent::socket(self.list), self.handle, mappings, net_out)
            .map_err(|source| Failure::Agent { action, source })
    }

    /// Gives ports of the cell where none is named.
    fn fill_in(&self, net_in: &mut [PortPair]) -> Result<(), Failure> {
        let named: Vec<_> =
            net_in.iter().map(|pair| pair.host_port).filter(|port| *port != 0).collect();
        let held = self.ports().hold(self.handle, net_in.len() - named.len(), &named)?;
        let unnamed = net_in.iter_mut().filter(|pair| pair.host_port == 0);
        for (pair, port) in unnamed.zip(held) {
            pair.host_port = port;
        }
        Ok(())
    }

    fn bind_mount(&self) -> PathBuf {
        self.config.bind_mount_dir.join(self.handle)
    }

    fn chain<'b>(&'b self, list: &'b List, netns: &'b Path) -> Chain<'b> {
        Chain {
            list,
            plugin_dir: &self.config.cni_plugin_dir,
            results: Path::new(RESULTS),
            container: self.handle,
            ifname: IFNAME,
            netns,
            arguments: "",
            variables: &[],
        }
    }

    fn ports(&self) -> Ports<'a> {
        let Config { state_file, first_port, last_port, .. } = self.config;
        Ports { state_file, first: *first_port, last: *last_port }
    }
}

/// Whether the agent may have done what failed, or may do it still. Such a port stays the
/// container's until it goes.
fn may_be_done(failure: &Failure) -> bool {
    match failure {
        Failure::Agent { source, .. } => match source {
            AgentError::Connect { .. } | AgentError::Version { .. } => false,
            AgentError::Refused { code, .. } => *code == ErrorCode::Dataplane,
            AgentError::Transport(_) | AgentError::Closed | AgentError::Unexpected => true,
        },
        _ => false,
    }
}

fn line(answer: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(answer)? + "\n")
}

/// Says what went wrong without being a reason to fail.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
