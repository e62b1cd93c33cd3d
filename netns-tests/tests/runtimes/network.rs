//! Networks of the runtimes, and the plugins called by hand.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, Result};
use sarcenet_cni_chain::{Chain, RESULTS};
use sarcenet_rig::SarcenetCell;
use serde_json::{Value, json};

/// Where runtimes look for plugins.
pub(crate) const PLUGINS: &str = "/opt/cni/bin";

/// Limit on traffic each way, in bits per second.
pub(crate) const RATE: u64 = 4_000_000;
/// The same at once after a quiet time, in bits.
pub(crate) const BURST: u64 = 80_000;

/// Puts the plugins where runtimes look for them.
pub(crate) fn install(cell: &SarcenetCell) -> Result<()> {
    for name in ["sarcenet-cni", "bandwidth"] {
        let link = Path::new(PLUGINS).join(name);
        // The other cell's runtime has the same ones.
        if !link.exists() {
            std::os::unix::fs::symlink(&cell.binaries().cni, link).context("link the plugins")?;
        }
    }
    Ok(())
}

/// A network of this name. What is said of the interface comes on top.
pub(crate) fn configuration(
    cell: &SarcenetCell,
    name: &str,
    mut interface: Value,
    limited: bool,
) -> Value {
    let socket = sarcenet_agent_api::socket_path(cell.root());
    interface["type"] = "sarcenet-cni".into();
    interface["agentSocket"] = json!(socket);
    let mut plugins = vec![interface];
    if limited {
        plugins.push(json!({
            "type": "bandwidth", "agentSocket": socket,
            "ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST,
        }));
    }
    json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins})
}

/// Calls DEL for a container of a network, as a runtime that keeps to the specification would.
pub(crate) fn delete(cell: &SarcenetCell, network: &Value, container: &str) -> Result<()> {
    by_hand(cell, network, container, |chain| Ok(chain.del()?))
}

/// Calls GC for a network of which no container is left.
pub(crate) fn collect(cell: &SarcenetCell, network: &Value) -> Result<()> {
    let mut network = network.clone();
    network["cniVersion"] = "1.1.0".into();
    by_hand(cell, &network, "none", |chain| Ok(chain.gc(&[])?))
}

fn by_hand(
    cell: &SarcenetCell,
    network: &Value,
    container: &str,
    call: impl FnOnce(&Chain<'_>) -> Result<()> + Send,
) -> Result<()> {
    let list = sarcenet_cni_chain::read(network.to_string().as_bytes())?;
    let variables: &[(&str, &OsStr)] = &[];
    cell.namespace().run(|| {
        call(&Chain {
            list: &list,
            plugin_dir: Path::new(PLUGINS),
            results: Path::new(RESULTS),
            container,
            ifname: "eth0",
            netns: Path::new(""),
            arguments: "",
            variables,
        })
    })?
}
