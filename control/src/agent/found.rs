//! What an agent finds when it starts, and the agent that comes of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use super::logging::Switches;
use super::{
    Agent, Entry, Inner, Options, StartError, Tenants, inner_mtu, own_addresses, report,
    reserve_snat_ports,
};
use crate::config::Network;
use crate::dataplane::Dataplane;
use crate::egress::EgressBook;
use crate::followed::Followed;
use crate::host::{self, UnderlayError};
use crate::rule_names::RuleNames;
use crate::state::{State, Store};

/// What is on the disk: the network file and the containers. A cell whose subnet is leased needs
/// its lease before it has an agent.
#[derive(Debug)]
pub struct Found {
    options: Options,
    text: String,
    watched: bool,
    base: Network,
    store: Store,
    state: State,
    state_problem: Option<String>,
}

impl Found {
    /// Reads both.
    pub fn read(options: Options) -> Result<Self, StartError> {
        let text = Network::text(&options.network)?;
        let base = Network::parse_file(&options.network, &text)?;
        Self::of(options, text, true, base)
    }

    /// Reads the containers only: `base` is what a file of another kind says, for as long as the agent
    /// runs.
    pub fn given(options: Options, base: Network) -> Result<Self, StartError> {
        Self::of(options, String::new(), false, base)
    }

    fn of(
        options: Options,
        text: String,
        watched: bool,
        base: Network,
    ) -> Result<Self, StartError> {
        let store = Store::new(&options.root)?;
        let (state, state_problem) = store.load()?;
        if let Some(problem) = &state_problem {
            warn!("{problem}");
        }
        Ok(Self { options, text, watched, base, store, state, state_problem })
    }

    /// What the agent is to be started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether changes of the network file are to be put in force.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// What the network file says.
    pub fn base(&self) -> &Network {
        &self.base
    }

    /// How many containers the cell has.
    pub fn containers(&self) -> usize {
        self.state.containers.len()
    }

    /// The address of a container, if there is one: all are of the cell's subnet.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.state.containers.values().next().map(|saved| saved.address)
    }

    /// Makes the cell's own device. `followed` is what servers have said so far, a lease at least,
    /// when the network file names any.
    pub fn agent(self, followed: Followed) -> Result<Arc<Agent>, StartError> {
        let Self { options, text, base, store, state, state_problem, .. } = self;
        if base.control.is_some() && followed.lease.is_none() {
            return Err(StartError::NoLease(options.cell));
        }
        let network = followed.network(&base, &options.cell);
        let cell = network.cell_of(&options.network, &options.cell)?.clone();
        let mtu = inner_mtu(&network, &cell)?;
        reserve_snat_ports(&network)?;
        for saved in state.containers.values() {
            if !cell.subnet.contains(&saved.address) {
                let (id, address) = (saved.id.clone(), saved.address);
                return Err(StartError::Subnet { id, address, subnet: cell.subnet });
            }
        }
        let host = host::make(cell.subnet, network.overlay, mtu)
            .map_err(|source| StartError::Host { source })?;
        info!(cell = cell.name, subnet = %cell.subnet, underlay = %cell.underlay, mtu,
            containers = state.containers.len(), "agent starts");
        if network.open_overlay {
            warn!("{}", report::OPEN);
        }
        let containers = state.containers.into_iter().map(|(id, saved)| {
            let problem = Some("not looked for yet".into());
            (id, Entry { saved, queue: None, problem, sought: false, ended: None })
        });
        let inner = Inner {
            base,
            followed,
            network,
            digest: Network::digest(&text),
            text,
            read_at: Instant::now(),
            mistakes: Vec::new(),
            cell,
            mtu,
            host: host.map(Arc::new),
            host_problem: None,
            last_address: state.last_address,
            containers: containers.collect(),
            names: RuleNames::default(),
            switches: Switches::default(),
            book: EgressBook::default(),
            addresses: own_addresses().map_err(UnderlayError::from)?,
            addresses_problem: None,
            state_problem,
            server_problems: BTreeMap::new(),
            collected: 0,
            collector_problem: None,
            version: 0,
        };
        let tenants = Arc::new(Tenants::of(&inner.containers));
        Ok(Arc::new(Agent {
            options,
            store,
            started: Instant::now(),
            operations: Mutex::new(()),
            configuration: Mutex::new(()),
            inner: Mutex::new(inner),
            dataplane: Dataplane::new()?,
            events: Arc::default(),
            tenants: watch::Sender::new(tenants),
        }))
    }
}
