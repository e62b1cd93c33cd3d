//! Cells, their underlay and their containers.

mod containers;
mod groups;
mod rules;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use sarcenet_agent_api::Policy;

use crate::capture::Capture;
use crate::kernel::KernelCell;
use crate::namespace::Namespace;
use crate::outside::{
    DNS_SERVER, HOST_SERVICE, OutsideHost, ROUTER, SecurityGroup, unlimited_icmp_errors,
};
use crate::plan::{CellKind, CellPlan, OVERLAY, Plan};
use crate::reaper::Reaper;
use crate::sarcenet::SarcenetCell;
use crate::servers::Servers;
use containers::Inhabitant;

/// Where worlds keep their files: on tmpfs, as `/run` is on a real cell.
const BASE: &str = "/dev/shm/sarcenet-rig";
/// The file in a world's directory that names its namespaces, for those who come later.
const NAMESPACES: &str = "namespaces";
/// How long a change of policies may take to reach every cell.
const POLICY_PATIENCE: Duration = Duration::from_secs(20);
/// How long tens of thousands of policies may take.
const BULK_PATIENCE: Duration = Duration::from_mins(1);
/// How often the rig looks whether something has happened.
const TICK: Duration = Duration::from_millis(2);

/// A cell of either kind.
#[derive(Debug)]
pub enum Cell {
    /// With the real programs.
    Sarcenet(Box<SarcenetCell>),
    /// With the kernel's devices.
    Kernel(Box<KernelCell>),
}

impl Cell {
    /// Its name and addresses.
    pub fn plan(&self) -> &CellPlan {
        match self {
            Self::Sarcenet(cell) => cell.plan(),
            Self::Kernel(cell) => cell.plan(),
        }
    }

    /// How many events it has recorded with a log prefix beginning like this: `OK_`, `DENY_`,
    /// `DENY_C2C_`, `DENY_ORL_`, and what it is about.
    pub fn logged(&self, prefix: &str) -> Result<u64> {
        match self {
            Self::Sarcenet(cell) => cell.logged(prefix),
            Self::Kernel(cell) => cell.logged(prefix),
        }
    }

    /// Its network namespace; the underlay is `eth0` there.
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::Sarcenet(cell) => cell.namespace(),
            Self::Kernel(cell) => cell.namespace(),
        }
    }
}

/// Cells joined by an underlay. Everything goes when it is dropped.
#[derive(Debug)]
pub struct World {
    id: String,
    directory: PathBuf,
    plan: Plan,
    cells: Vec<Cell>,
    /// Where the bridge between the cells is, if there is one.
    hub: Option<Namespace>,
    outside: Option<OutsideHost>,
    servers: Option<Servers>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reaper: Reaper,
    namespaces: Vec<String>,
    containers: u32,
    apps_taken: usize,
    /// How many of the plan's apps have a tag from the servers.
    apps_tagged: usize,
    policies: Vec<Policy>,
    groups: Vec<SecurityGroup>,
    /// Containers that have a space.
    spaces: Vec<Inhabitant>,
}

impl World {
    /// Builds it. Needs root.
    pub fn new(plan: Plan) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "worlds are made of network namespaces, which only root can make"
        );
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}{}-{number}", plan.label, std::process::id());
        let directory = Path::new(BASE).join(&id);
        let mut reaper = Reaper::start()?;
        reaper.directory(&directory)?;
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("make {}", directory.display()))?;
        let state = State {
            reaper,
            namespaces: Vec::new(),
            containers: 0,
            apps_taken: 0,
            apps_tagged: 0,
            policies: Vec::new(),
            groups: Vec::new(),
            spaces: Vec::new(),
        };
        let state = Mutex::new(state);
        let mut world = Self {
            id,
            directory,
            plan,
            cells: Vec::new(),
            hub: None,
            outside: None,
            servers: None,
            state,
        };
        world.build()?;
        Ok(world)
    }

    fn build(&mut self) -> Result<()> {
        let plans = self.plan.cell_plans();
        let namespaces = plans
            .iter()
            .map(|cell| self.create_namespace(&cell.name))
            .collect::<Result<Vec<_>>>()?;
        self.hub = self.join(&plans, &namespaces).context("make the underlay")?;
        if let (Some(hub), true) = (&self.hub, self.plan.outside.is_some()) {
            let [host, router] =
                [self.create_namespace("outside")?, self.create_namespace("router")?];
            let mtu = self.plan.underlay_mtu;
            self.outside = Some(OutsideHost::connect(host, router, hub, &plans, mtu)?);
            for cell in &namespaces {
                cell.ip(&format!(
                    "route add default via {ROUTER}\n\
                     addr add {DNS_SERVER}/32 dev lo\n\
                     addr add {}/32 dev lo\n",
                    HOST_SERVICE.ip()
                ))?;
                unlimited_icmp_errors(cell)?;
            }
        }
        if let (Some(hub), true) = (&self.hub, self.plan.has_servers()) {
            let root = self.directory.join("control");
            let namespace = self.create_namespace("control")?;
            let servers = Servers::start(namespace, hub, root, self.plan.underlay_mtu)?;
            servers.admit(&plans, &self.directory)?;
            self.servers = Some(servers);
        }
        self.write_network_files(&self.state())?;
        for (plan, namespace) in plans.iter().zip(namespaces) {
            let cell = match plan.kind {
                CellKind::Sarcenet => SarcenetCell::start(
                    plan,
                    namespace,
                    self.directory.join(&plan.name),
                    &self.network_file_of(plan),
                    &self.plan.dataplane_arguments,
                )
                .map(|cell| Cell::Sarcenet(Box::new(cell))),
                CellKind::Kernel(backend) => {
                    let peers: Vec<_> = plans.iter().filter(|peer| *peer != plan).collect();
                    KernelCell::start(plan, namespace, backend, &self.plan, &peers)
                        .map(|cell| Cell::Kernel(Box::new(cell)))
                }
                CellKind::Routed => {
                    let peers: Vec<_> = plans.iter().filter(|peer| *peer != plan).collect();
                    KernelCell::start_routed(plan, namespace, self.plan.underlay_mtu, &peers)
                        .map(|cell| Cell::Kernel(Box::new(cell)))
                }
            };
            self.cells.push(cell.with_context(|| format!("start {}", plan.name))?);
        }
        // They get ready side by side.
        self.sarcenet_cells().try_for_each(SarcenetCell::wait_ready)
    }

    /// Joins the cells by one veth pair, as fast as the kernel can, or by a bridge, whose namespace
    /// is returned.
    fn join(&self, plans: &[CellPlan], namespaces: &[Namespace]) -> Result<Option<Namespace>> {
        let mtu = self.plan.underlay_mtu;
        let hub = if let ([first, second], false) = (namespaces, self.plan.is_bridged()) {
            first.ip(&format!(
                "link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n",
                second.name()
            ))?;
            None
        } else {
            let hub = self.create_namespace("hub")?;
            hub.ip("link add bridge0 type bridge\nlink set bridge0 up\n")?;
            for (port, cell) in namespaces.iter().enumerate() {
                hub.ip(&format!(
                    "link add port{port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
                     link set port{port} master bridge0 up\n",
                    cell.name()
                ))?;
            }
            Some(hub)
        };
        for (plan, cell) in plans.iter().zip(namespaces) {
            cell.ip(&format!("addr add {}/24 dev eth0\nlink set eth0 up\n", plan.underlay))?;
        }
        Ok(hub)
    }

    /// Begins to see what passes a cell's underlay interface: at the other end of its cable if
    /// there is a bridge, else at the interface itself, where AF_XDP goes past.
    pub fn capture(&self, cell: usize) -> Result<Capture> {
        match &self.hub {
            Some(hub) => Capture::start(hub, &format!("port{cell}")),
            None => Capture::start(self.cells[cell].namespace(), "eth0"),
        }
    }

    /// Makes a network namespace `sn-<id>-<name>`, which ends with the world.
    pub fn create_namespace(&self, name: &str) -> Result<Namespace> {
        let name = format!("sn-{}-{name}", self.id);
        let mut state = self.state();
        state.reaper.namespace(&name)?;
        state.namespaces.push(name.clone());
        let list = state.namespaces.join("\n") + "\n";
        std::fs::write(self.directory.join(NAMESPACES), list)
            .context("write the list of namespaces")?;
        Namespace::create(name)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its namespaces are called after `sn-`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The network file that all Sarcenet cells read when there are no servers.
    pub fn network_file(&self) -> PathBuf {
        self.directory.join("network.yaml")
    }

    fn network_file_of(&self, cell: &CellPlan) -> PathBuf {
        match self.servers {
            Some(_) => self.directory.join(&cell.name).join("etc/sarcenet/network.yaml"),
            None => self.network_file(),
        }
    }

    /// What it was made from.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All cells, in the order of the plan.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Those that run Sarcenet.
    pub fn sarcenet_cells(&self) -> impl Iterator<Item = &SarcenetCell> {
        self.cells.iter().filter_map(|cell| match cell {
            Cell::Sarcenet(cell) => Some(&**cell),
            Cell::Kernel(_) => None,
        })
    }

    /// The ends of all logs, for people.
    pub fn logs(&self) -> String {
        let cells = self.sarcenet_cells().map(SarcenetCell::logs);
        self.servers.iter().map(Servers::log).chain(cells).collect::<Vec<_>>().join("\n")
    }

    /// Leaves everything running; [`World::end_kept`] ends it.
    pub fn keep(self) -> Result<()> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).reaper.keep()
    }

    /// Ends all worlds with this label that were kept; returns how many.
    pub fn end_kept(label: &str) -> Result<usize> {
        let Ok(entries) = std::fs::read_dir(BASE) else { return Ok(0) };
        let mut ended = 0;
        for entry in entries {
            let path = entry.context("list the worlds")?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let mine = name
                .strip_prefix(label)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            let Ok(namespaces) = std::fs::read_to_string(path.join(NAMESPACES)) else { continue };
            if !mine {
                continue;
            }
            let mut reaper = Reaper::start()?;
            reaper.directory(&path)?;
            for namespace in namespaces.lines().filter(|name| name.starts_with("sn-")) {
                reaper.namespace(namespace)?;
            }
            drop(reaper);
            ended += 1;
        }
        Ok(ended)
    }

    /// The overlay of all cells.
    pub fn overlay(&self) -> Ipv4Net {
        OVERLAY
    }

    /// The subnet of a cell.
    pub fn subnet(&self, cell: usize) -> Ipv4Net {
        self.cells[cell].plan().subnet
    }
}

/// Tries until it succeeds; the last error if that takes longer than `patience`.
pub fn eventually<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(TICK),
        }
    }
}
