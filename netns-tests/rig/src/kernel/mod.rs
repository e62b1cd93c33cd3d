//! A cell as Silk makes it: a VXLAN device with Group Based Policy, a veth per container, and
//! iptables rules.

mod bandwidth;
mod egress;
mod rules;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use sarcenet_agent_api::Policy;

use crate::container::Attachment;
use crate::namespace::{Namespace, fed};
use crate::outside::{ContainerSpec, DNS_SERVER, OutsidePlan, PortMapping, SecurityGroup};
use crate::plan::{AppTag, Backend, CellPlan, OVERLAY, Plan, TUNNEL_PORT, VNI, mac};
use rules::{ContainerChains, PolicyChain, accept_rules};

/// Address of the host end of every container's veth.
const HOST_END: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// Last octet of the first address that a container gets.
const FIRST_ADDRESS: u8 = 2;
/// First host port of the range that Garden maps to containers.
const FIRST_HOST_PORT: u16 = 61000;
/// Port on which apps listen by default.
const APP_PORT: u16 = 8080;

/// A running kernel cell.
#[derive(Debug)]
pub struct KernelCell {
    plan: CellPlan,
    namespace: Namespace,
    /// None where the kernel only routes.
    backend: Option<Backend>,
    container_mtu: u16,
    apps: Vec<AppTag>,
    outside: Option<OutsidePlan>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    attached: u8,
    /// Containers with an app, by address.
    containers: BTreeMap<Ipv4Addr, String>,
    /// All containers, with their handles.
    all: Vec<(String, Ipv4Addr, ContainerSpec)>,
    groups: Vec<SecurityGroup>,
    policies: Vec<Policy>,
    /// Number of the policy chain in force; they are counted up where Silk uses the time.
    chain: Option<u64>,
}

impl KernelCell {
    pub(crate) fn start(
        plan: &CellPlan,
        namespace: Namespace,
        backend: Backend,
        world: &Plan,
        peers: &[&CellPlan],
    ) -> Result<Self> {
        namespace.sysctl("ipv4/ip_forward", "1")?;
        namespace.sysctl("ipv4/conf/all/rp_filter", "0")?;
        let CellPlan { underlay, subnet, .. } = plan;
        let own = subnet.network();
        namespace
            .ip(&format!(
                "link add silk-vtep address {} type vxlan id {VNI} dev eth0 local {underlay} dstport {TUNNEL_PORT} nolearning gbp\n\
                 addr add {own}/{} brd + scope link dev silk-vtep\n\
                 link set silk-vtep up\n",
                plan.vtep_mac(),
                OVERLAY.prefix_len(),
            ))
            .context("make the VTEP (does the kernel have vxlan with gbp?)")?;
        for peer in peers {
            let (subnet, base, mac) = (peer.subnet, peer.subnet.network(), peer.vtep_mac());
            namespace.ip(&format!(
                "route replace {subnet} via {base} dev silk-vtep src {own}\n\
                 neigh replace {base} lladdr {mac} dev silk-vtep nud permanent\n"
            ))?;
            let mut bridge = Command::new("bridge");
            bridge.args(["-n", namespace.name(), "-batch", "-"]);
            let fdb =
                format!("fdb replace {mac} dev silk-vtep dst {} self permanent\n", peer.underlay);
            fed(&mut bridge, &fdb)?;
        }
        let cell = Self {
            plan: plan.clone(),
            namespace,
            backend: Some(backend),
            container_mtu: world.overlay_mtu(),
            apps: world.apps.clone(),
            outside: world.outside.clone(),
            state: Mutex::default(),
        };
        cell.enforce(&mut cell.state())?;
        Ok(cell)
    }

    /// A cell that only routes: packets go to the other cells as they are.
    pub(crate) fn start_routed(
        plan: &CellPlan,
        namespace: Namespace,
        container_mtu: u16,
        peers: &[&CellPlan],
    ) -> Result<Self> {
        namespace.sysctl("ipv4/ip_forward", "1")?;
        for CellPlan { subnet, underlay, .. } in peers {
            namespace.ip(&format!("route replace {subnet} via {underlay} dev eth0\n"))?;
        }
        Ok(Self {
            plan: plan.clone(),
            namespace,
            backend: None,
            container_mtu,
            apps: Vec::new(),
            outside: None,
            state: Mutex::default(),
        })
    }

    pub(crate) fn plan(&self) -> &CellPlan {
        &self.plan
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a namespace as a container: a veth pair without ARP, addressed point to point,
    /// and the container's chains.
    pub(crate) fn attach(
        &self,
        container: &Namespace,
        handle: &str,
        spec: &ContainerSpec,
    ) -> Result<Attachment> {
        let mut state = self.state();
        let [a, b, c, _] = self.plan.subnet.network().octets();
        let last = FIRST_ADDRESS
            .checked_add(state.attached)
            .filter(|&last| last < 255)
            .context("the cell's subnet has no address left")?;
        let ip = Ipv4Addr::new(a, b, c, last);
        state.attached += 1;

        let digits = format!("{a:03}{b:03}{c:03}{last:03}");
        let (host, peer) = (format!("s-{digits}"), format!("c-{digits}"));
        let (host_mac, container_mac) = (mac([0xaa, 0xaa], ip), mac([0xee, 0xee], ip));
        let mtu = self.container_mtu;
        self.namespace.ip(&format!(
            "link add {host} address {host_mac} mtu {mtu} type veth peer name {peer} address {container_mac} mtu {mtu}\n\
             link set {peer} netns {}\n\
             link set {host} arp off up\n\
             addr add {HOST_END} peer {ip}/32 scope link dev {host}\n\
             neigh replace {ip} lladdr {container_mac} dev {host} nud permanent\n",
            container.name(),
        ))?;
        self.namespace.sysctl(&format!("ipv6/conf/{host}/disable_ipv6"), "1")?;
        // The anti-spoofing measure: only the container's own address routes back to its veth.
        self.namespace.sysctl(&format!("ipv4/conf/{host}/rp_filter"), "1")?;
        container.ip(&format!(
            "link set {peer} name eth0\n\
             link set eth0 arp off up\n\
             addr add {ip} peer {HOST_END}/32 scope link dev eth0\n\
             route add default via {HOST_END} dev eth0 src {ip}\n\
             neigh replace {HOST_END} lladdr {host_mac} dev eth0 nud permanent\n"
        ))?;
        container.sysctl("ipv6/conf/eth0/disable_ipv6", "1")?;

        if let Some(bandwidth) = spec.bandwidth {
            bandwidth::limit(&self.namespace, &host, last, bandwidth)?;
        }

        let mut spec = spec.clone();
        if spec.mappings.is_empty() {
            let host = FIRST_HOST_PORT + u16::from(last);
            spec.mappings.push(PortMapping { host, container: APP_PORT });
        }
        let chains = self.chains(handle, ip, &spec);
        self.restore(&chains.restore_text(&state.groups))?;
        state.all.push((handle.to_owned(), ip, spec.clone()));
        if let Some(app) = spec.app {
            state.containers.insert(ip, app);
            self.enforce(&mut state)?;
        }
        let nameservers = self.outside.iter().map(|_| DNS_SERVER).collect();
        Ok(Attachment { address: ip, mtu, nameservers })
    }

    fn chains<'a>(
        &'a self,
        handle: &'a str,
        address: Ipv4Addr,
        spec: &'a ContainerSpec,
    ) -> ContainerChains<'a> {
        let (underlay, outside) = (self.plan.underlay, self.outside.as_ref());
        ContainerChains { handle, address, underlay, spec, outside }
    }

    /// Puts these security groups in force instead of those before.
    pub(crate) fn set_groups(&self, groups: &[SecurityGroup]) -> Result<()> {
        let mut state = self.state();
        state.groups = groups.to_vec();
        let mut text = "*filter\n".to_owned();
        for (handle, ip, spec) in &state.all {
            self.chains(handle, *ip, spec).asg_text(groups, &mut text);
        }
        text.push_str("COMMIT\n");
        self.restore(&text)
    }

    /// How many packets have come to rules that log with a prefix beginning like this. The kernel
    /// writes no log for other namespaces than the first one, but counts.
    pub fn logged(&self, prefix: &str) -> Result<u64> {
        let backend = self.backend.context("it has no rules")?;
        let mut command = Command::new(backend.iptables());
        command.args(["--wait", "--list-rules", "--verbose"]);
        let rules = self.namespace.checked(&mut command)?;
        // -A CHAIN ... -c PACKETS BYTES -j LOG --log-prefix "PREFIX "
        let prefix = format!("--log-prefix \"{prefix}");
        let packets = |rule: &str| {
            let (_, counters) = rule.split_once(" -c ")?;
            counters.split(' ').next()?.parse::<u64>().ok()
        };
        Ok(rules.lines().filter(|rule| rule.contains(&prefix)).filter_map(packets).sum())
    }

    /// Puts these policies in force instead of those before.
    pub fn set_policies(&self, policies: &[Policy]) -> Result<()> {
        let mut state = self.state();
        state.policies = policies.to_vec();
        self.enforce(&mut state)
    }

    /// Adds one policy to the chain in force by one call of `iptables -A` for each container that
    /// it concerns. Silk replaces the whole chain instead; this is the least that the kernel's
    /// interface allows.
    pub fn append_policy(&self, policy: &Policy) -> Result<()> {
        let mut state = self.state();
        let Some((backend, chain)) = self.backend.zip(state.chain.map(chain_name)) else {
            bail!("{} has no rules", self.plan.name);
        };
        for rule in accept_rules(&chain, &state.containers, &self.apps, policy) {
            let mut command = Command::new(backend.iptables());
            command.arg("--wait").args(rule.split(' '));
            self.namespace.checked(&mut command)?;
        }
        state.policies.push(policy.clone());
        Ok(())
    }

    fn enforce(&self, state: &mut State) -> Result<()> {
        let old = state.chain.map(chain_name);
        let next = state.chain.map_or(1, |chain| chain + 1);
        let State { containers, policies, .. } = &*state;
        let logged = self.outside.as_ref().is_some_and(|outside| outside.logging);
        let chain = PolicyChain { containers, apps: &self.apps, policies, logged };
        let text = chain.restore_text(old.as_deref(), &chain_name(next));
        self.restore(&text)?;
        state.chain = Some(next);
        Ok(())
    }

    fn restore(&self, text: &str) -> Result<()> {
        let Some(backend) = self.backend else { return Ok(()) };
        let mut command = Command::new(backend.restore());
        command.args(["--noflush", "--wait"]);
        self.namespace.run(|| fed(&mut command, text))?.map(drop)
    }
}

/// Silk numbers its chains by microseconds since the epoch, sixteen digits.
fn chain_name(number: u64) -> String {
    format!("vpa--{:016}", 1_725_000_000_000_000 + number)
}
