//! What the agent tells about itself.

use sarcenet_agent_api::{
    AgentStatus, AppInfo, ConfigStatus, ContainerInfo, Policy, PortId, RuleId, RuleName, ranges,
};
use sarcenet_dataplane_api::MAX_MAPPINGS;

use super::containers::{attachment, seconds_since_1970};
use super::{Agent, Inner};
use crate::{desired, ipam};

/// Containers, policies or apps in one reply: as many as surely fit a frame.
const PAGE: usize = 16;

/// What everybody should know of a cell that is open.
pub(super) const OPEN: &str = "everybody in the overlay may talk to this cell's containers, whatever \
                               policies say (open_overlay, disable_container_network_policy)";

impl Agent {
    /// Name of the cell.
    pub fn cell_name(&self) -> String {
        self.inner.lock().cell.name.clone()
    }

    /// How it is.
    pub fn status(&self) -> AgentStatus {
        let dataplane = self.dataplane.state();
        let rules = self.dataplane.rules() as u32;
        let events = self.events.progress();
        let events = events
            .problem
            .map(|problem| format!("{} events of conversations are lost: {problem}", events.lost));
        let inner = self.inner.lock();
        let containers = inner.containers.len() as u32;
        AgentStatus {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            cell: inner.cell.name.clone(),
            underlay: inner.cell.underlay,
            subnet: inner.cell.subnet,
            overlay: inner.network.overlay,
            mtu: inner.mtu,
            containers,
            collected: inner.collected,
            addresses_free: ipam::capacity(inner.cell.subnet).saturating_sub(containers),
            cells: inner.network.cells.len() as u32,
            apps: inner.network.apps.len() as u32,
            policies: inner.network.policies.len() as u32,
            rules,
            config: ConfigStatus {
                path: self.options.network.display().to_string(),
                age_s: inner.read_at.elapsed().as_secs(),
                digest: inner.digest.clone(),
                mistakes: bounded(inner.mistakes.clone()),
            },
            dataplane,
            problems: bounded(problems(&inner).chain(events).collect()),
        }
    }

    /// A page of containers in order of port, and whether there are more.
    pub fn containers(&self, after: Option<PortId>) -> (Vec<ContainerInfo>, bool) {
        let inner = self.inner.lock();
        let subnet = inner.cell.subnet;
        let mut entries: Vec<_> = inner
            .containers
            .values()
            .map(|entry| (desired::port(subnet, entry.saved.address), entry))
            .filter(|(port, _)| after.is_none_or(|after| *port > after))
            .collect();
        entries.sort_by_key(|(port, _)| *port);
        let mut mapped = 0;
        let fitting = entries.iter().take(PAGE).take_while(|(_, entry)| {
            mapped += entry.saved.terms.mappings.len();
            mapped <= MAX_MAPPINGS
        });
        // One fits always.
        let page = fitting.count().max(1);
        let more = entries.len() > page;
        let now = seconds_since_1970();
        let infos = entries.into_iter().take(page).map(|(port, entry)| {
            let app = entry.saved.app.clone();
            let queue = entry.queue.as_ref();
            ContainerInfo {
                attachment: attachment(&inner, &entry.saved),
                netns_path: entry.saved.netns_path.clone(),
                tag: app.as_deref().and_then(|app| inner.network.tag(app)).unwrap_or(0),
                app,
                mappings: ranges(&entry.saved.terms.mappings),
                kind: entry.saved.kind,
                age_s: entry.saved.attached_at.map(|at| now.saturating_sub(at)),
                ended_s: entry.ended.map(|at| at.elapsed().as_secs()),
                connected: !entry.is_lost()
                    && queue.is_some_and(|queue| self.dataplane.has(port, queue)),
            }
        });
        (infos.collect(), more)
    }

    /// A page of policies, and whether there are more.
    pub fn policies(&self, skip: usize) -> (Vec<Policy>, bool) {
        let inner = self.inner.lock();
        let rest = inner.network.policies.get(skip..).unwrap_or_default();
        (rest.iter().take(PAGE * 8).cloned().collect(), rest.len() > PAGE * 8)
    }

    /// A page of apps in order of tag, and whether there are more.
    pub fn apps(&self, after: u16) -> (Vec<AppInfo>, bool) {
        let inner = self.inner.lock();
        let mut apps: Vec<_> = inner
            .network
            .apps
            .iter()
            .filter(|(_, tag)| *tag > after)
            .map(|(id, tag)| AppInfo { id: id.to_owned(), tag })
            .collect();
        apps.sort_by_key(|app| app.tag);
        let more = apps.len() > PAGE * 16;
        apps.truncate(PAGE * 16);
        (apps, more)
    }

    /// What rules stand for.
    pub fn rules(&self, ids: &[RuleId]) -> Vec<RuleName> {
        let inner = self.inner.lock();
        let name = |&id: &RuleId| {
            let meaning = inner.names.meaning(id)?.clone();
            Some(RuleName { id, meaning })
        };
        ids.iter().filter_map(name).collect()
    }
}

/// What somebody should look at.
fn problems(inner: &Inner) -> impl Iterator<Item = String> {
    let mut problems: Vec<String> = [
        &inner.state_problem,
        &inner.host_problem,
        &inner.addresses_problem,
        &inner.collector_problem,
    ]
    .into_iter()
    .flatten()
    .chain(inner.server_problems.values())
    .cloned()
    .chain(inner.followed.problem(&inner.network))
    .chain(inner.network.open_overlay.then(|| OPEN.to_owned()))
    .collect();
    for entry in inner.containers.values() {
        let id = &entry.saved.id;
        if let Some(problem) = entry.problem() {
            problems.push(format!("container {id} has no interface: {problem}"));
        }
        if inner.network.outside.is_none() && !entry.saved.terms.mappings.is_empty() {
            problems.push(format!(
                "container {id} has mapped ports, which lead nowhere without a way to the outside; \
                 add `outside: {{}}` to the network file"
            ));
        }
        match &entry.saved.app {
            // Servers tell the tags of those apps only that policies name.
            Some(app) if inner.base.control.is_none() && inner.network.tag(app).is_none() => {
                problems.push(format!(
                    "container {id} belongs to app {app}, which the network file does not name; \
                     add `- {{id: {app}, tag: ...}}` under `apps:`"
                ));
            }
            _ => {}
        }
    }
    problems.into_iter()
}

/// No more lines than fit a frame, nor longer ones.
fn bounded(mut lines: Vec<String>) -> Vec<String> {
    const LINES: usize = 50;
    const CHARS: usize = 500;
    let more = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    for line in &mut lines {
        if let Some((end, _)) = line.char_indices().nth(CHARS) {
            line.truncate(end);
        }
    }
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}
