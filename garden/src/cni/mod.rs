//! Running a network's CNI plugins as libcni does: ADD in order, each with the result of the one
//! before, DEL in reverse with the result of ADD (specification 1.1.0, section 3).

mod cache;
mod exec;
mod list;
mod result;

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

pub(crate) use list::{List, LoadError, load};
pub(crate) use result::{Answer, ResultError};

use exec::PluginError;
use list::Plugin;

/// The interface's name in every container.
pub(crate) const IFNAME: &str = "eth0";

/// The plugins of a network, for one container.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    /// The network.
    pub(crate) list: &'a List,
    /// Where the plugins are.
    pub(crate) plugin_dir: &'a Path,
    /// The container.
    pub(crate) handle: &'a str,
    /// Where its network namespace is mounted.
    pub(crate) netns: &'a Path,
}

/// What every plugin is told beside its configuration.
#[derive(Debug)]
pub(crate) struct Extra {
    /// What Garden says about the container; nothing is told when it is empty.
    pub(crate) metadata: Map<String, Value>,
    /// Ports and rules.
    pub(crate) runtime_config: Value,
}

/// Why a chain did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainError {
    #[error("plugin {plugin} failed ({doing}): {source}")]
    Plugin { plugin: String, doing: &'static str, source: PluginError },
    #[error("plugin {plugin} failed (add): unable to decode its result: {source}")]
    Decode { plugin: String, source: serde_json::Error },
    #[error("failed to set network {network:?} cached result: {source}")]
    Cache { network: String, source: io::Error },
}

impl Chain<'_> {
    /// Returns the result of the last plugin. What a plugin that fails leaves behind, and what
    /// those before it made, is for DEL.
    pub(crate) fn add(&self, extra: &Extra) -> Result<Map<String, Value>, ChainError> {
        let mut result: Option<Map<String, Value>> = None;
        for plugin in &self.list.plugins {
            let mut netconf = self.netconf(plugin, result.as_ref());
            if !extra.metadata.is_empty() {
                netconf.insert("metadata".into(), Value::Object(extra.metadata.clone()));
            }
            netconf.insert("runtimeConfig".into(), extra.runtime_config.clone());
            let output = self.run(plugin, "ADD", &netconf).map_err(|source| {
                ChainError::Plugin { plugin: plugin.to_string(), doing: "add", source }
            })?;
            let decoded: Result<Map<String, Value>, _> = serde_json::from_slice(&output);
            let mut decoded = decoded
                .map_err(|source| ChainError::Decode { plugin: plugin.to_string(), source })?;
            // A result without a version is one of the version that was asked for.
            let version = decoded.entry("cniVersion").or_insert(Value::Null);
            if version.as_str().is_none_or(str::is_empty) {
                *version = json!(self.list.version.name());
            }
            result = Some(decoded);
        }
        let result = result.unwrap_or_default();
        cache::store(&self.list.name, self.handle, &result)
            .map_err(|source| ChainError::Cache { network: self.list.name.clone(), source })?;
        Ok(result)
    }

    /// Success when there is nothing to undo, as far as the plugins keep to the specification.
    pub(crate) fn del(&self) -> Result<(), ChainError> {
        let version = self.list.version;
        let result = version.del_has_result().then(|| cache::load(&self.list.name, self.handle));
        let result = result.flatten();
        for plugin in self.list.plugins.iter().rev() {
            self.run(plugin, "DEL", &self.netconf(plugin, result.as_ref())).map_err(|source| {
                ChainError::Plugin { plugin: plugin.to_string(), doing: "delete", source }
            })?;
        }
        cache::remove(&self.list.name, self.handle)
            .map_err(|source| ChainError::Cache { network: self.list.name.clone(), source })
    }

    /// The plugin's part of the list, with what the list says for all of them.
    fn netconf(&self, plugin: &Plugin, result: Option<&Map<String, Value>>) -> Map<String, Value> {
        let mut netconf = plugin.netconf.clone();
        netconf.insert("name".into(), json!(self.list.name));
        netconf.insert("cniVersion".into(), json!(self.list.version.name()));
        if let Some(result) = result {
            netconf.insert("prevResult".into(), Value::Object(result.clone()));
        }
        netconf
    }

    fn run(
        &self,
        plugin: &Plugin,
        command: &str,
        netconf: &Map<String, Value>,
    ) -> Result<Vec<u8>, PluginError> {
        let program = exec::find(self.plugin_dir, &plugin.kind)?;
        let variables = [
            ("CNI_COMMAND", command.as_ref()),
            ("CNI_CONTAINERID", self.handle.as_ref()),
            ("CNI_NETNS", self.netns.as_os_str()),
            ("CNI_IFNAME", IFNAME.as_ref()),
            ("CNI_ARGS", "".as_ref()),
            ("CNI_PATH", self.plugin_dir.as_os_str()),
        ];
        exec::run(&program, &variables, json!(netconf).to_string().as_bytes())
    }
}
