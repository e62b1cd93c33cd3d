//! What is asked of the cell's agent directly.

use std::path::{Path, PathBuf};

use sarcenet_agent_api::{
    AgentClient, AgentError, AttachmentId, Extension, NetOutRule, PortMapping, socket_path,
};
use sarcenet_cni_chain::List;

use crate::actions::IFNAME;

/// Where the agent listens: as the network's plugin has it, or where it always does.
pub(crate) fn socket(list: Option<&List>) -> PathBuf {
    let mut plugins = list.into_iter().flat_map(|list| &list.plugins);
    match plugins.find_map(|plugin| plugin.netconf.get("agentSocket")?.as_str()) {
        Some(path) => PathBuf::from(path),
        None => socket_path(Path::new("/")),
    }
}

/// Lets a container have more than it was attached with.
pub(crate) fn extend(
    socket: &Path,
    handle: &str,
    mappings: Vec<PortMapping>,
    net_out: Vec<NetOutRule>,
) -> Result<(), AgentError> {
    let id = AttachmentId { container: handle.to_owned(), ifname: IFNAME.to_owned() };
    AgentClient::connect(socket)?.extend(id, Extension { mappings, net_out, bandwidth: None })
}
