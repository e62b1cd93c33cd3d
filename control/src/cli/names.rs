//! From the dataplane's numbers to words.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use ipnet::Ipv4Net;
use sarcenet_agent_api::{AgentClient, ContainerInfo, PortId, RuleId, RuleMeaning};
use sarcenet_dataplane_api::FlowEnd;

use crate::paths::Root;

/// What the agent knows about ports, tags and rules. Without an agent numbers stay numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    client: RefCell<Option<AgentClient>>,
    containers: Vec<ContainerInfo>,
    apps: BTreeMap<u16, String>,
    rules: RefCell<BTreeMap<RuleId, Option<RuleMeaning>>>,
}

impl Names {
    /// Asks the agent. Says on stderr when it cannot be reached.
    pub(super) fn fetch(root: &Root) -> Self {
        let ask = || -> Result<Self> {
            let mut client = super::agent_client(root)?;
            let containers = client.containers()?;
            let apps = client.apps()?.into_iter().map(|app| (app.tag, app.id)).collect();
            Ok(Self { client: RefCell::new(Some(client)), containers, apps, ..Self::default() })
        };
        ask().unwrap_or_else(|error| {
            eprintln!("sarcenet: numbers instead of names: {}", super::output::explain(&error));
            Self::default()
        })
    }

    /// `app-a`, or the bare tag.
    pub(super) fn tag(&self, tag: u16) -> String {
        match (tag, self.apps.get(&tag)) {
            (0, _) => "no tag".into(),
            (_, Some(app)) => format!("tag {tag} ({app})"),
            (_, None) => format!("tag {tag}"),
        }
    }

    /// `rule app-a to app-b tcp 8080`, or the bare number.
    pub(super) fn rule(&self, id: RuleId) -> String {
        let known = self.rules.borrow().get(&id).cloned();
        let meaning = known.unwrap_or_else(|| {
            let mut client = self.client.borrow_mut();
            let asked = client.as_mut().and_then(|client| client.rules(&[id]).ok());
            let meaning = asked.and_then(|rules| rules.get(&id).cloned());
            self.rules.borrow_mut().insert(id, meaning.clone());
            meaning
        });
        meaning.map_or_else(|| format!("rule {}", id.0), |meaning| meaning.to_string())
    }

    /// The container behind a port.
    pub(super) fn container(&self, port: PortId) -> Option<&ContainerInfo> {
        self.containers.iter().find(|info| info.attachment.port == port)
    }

    /// The app with that tag.
    pub(super) fn app(&self, tag: u16) -> Option<&str> {
        self.apps.get(&tag).map(String::as_str)
    }

    /// `web-1 (app-a)`, or the bare port.
    pub(super) fn port(&self, port: PortId) -> String {
        match self.container(port) {
            Some(ContainerInfo { attachment, app: Some(app), .. }) => {
                format!("{} ({app})", attachment.id.container)
            }
            Some(info) => info.attachment.id.container.clone(),
            None => format!("port {}", port.0),
        }
    }

    /// A door.
    pub(super) fn end(&self, end: FlowEnd) -> String {
        match end {
            FlowEnd::Host => "cell".into(),
            FlowEnd::Container(port) => self.port(port),
            FlowEnd::Tunnel(peer) => format!("tunnel {peer}"),
        }
    }

    /// The network that a word of the command line means: an address, a network, a container of
    /// this cell, or an app with one container here.
    pub(super) fn network(&self, word: &str) -> Result<Ipv4Net> {
        if let Ok(address) = word.parse::<Ipv4Addr>() {
            return Ok(Ipv4Net::from(address));
        }
        if let Ok(net) = word.parse::<Ipv4Net>() {
            return Ok(net.trunc());
        }
        let named = |info: &&ContainerInfo| {
            info.attachment.id.container == word || info.app.as_deref() == Some(word)
        };
        let found: Vec<_> =
            self.containers.iter().filter(named).map(|info| info.attachment.address).collect();
        match found.as_slice() {
            [one] => Ok(Ipv4Net::from(*one)),
            [] => bail!(
                "`{word}` is no address or network, and no container or app of this cell has \
                 that name; see `sarcenet containers`"
            ),
            many => {
                let list: Vec<_> = many.iter().map(ToString::to_string).collect();
                bail!("app `{word}` has several containers here; give one of {}", list.join(", "))
            }
        }
    }
}
