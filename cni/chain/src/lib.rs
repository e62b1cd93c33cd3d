//! Running a network's CNI plugins as libcni does: ADD in order, each with the result of the one
//! before, CHECK with the result of ADD, DEL in reverse with the same, STATUS and GC in order
//! (specification 1.1.0, section 3).

#![forbid(unsafe_code)]

mod cache;
mod exec;
mod list;

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

pub use cache::RESULTS;
pub use exec::{PluginAnswer, PluginError};
pub use list::{FileError, List, LoadError, Plugin, Version, load, read};

use cache::Kept;

/// The plugins of a network, for one interface of one container.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// The network.
    pub list: &'a List,
    /// Where the plugins are.
    pub plugin_dir: &'a Path,
    /// Where results are kept; [`RESULTS`] is libcni's place.
    pub results: &'a Path,
    /// The container (`CNI_CONTAINERID`), made of what file names may have.
    pub container: &'a str,
    /// The interface's name in it (`CNI_IFNAME`).
    pub ifname: &'a str,
    /// The container's network namespace (`CNI_NETNS`).
    pub netns: &'a Path,
    /// `CNI_ARGS`.
    pub arguments: &'a str,
    /// Further variables of the plugins, beside our own.
    pub variables: &'a [(&'a str, &'a OsStr)],
}

/// What plugins are told beside their configuration when they ADD.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// What Garden says about the container; nothing is told when it is empty.
    pub metadata: Map<String, Value>,
    /// `runtimeConfig`.
    pub runtime_config: Map<String, Value>,
    /// Whether a plugin is told only those keys of it that its `capabilities` name, as libcni does.
    /// Garden's plugins are told all of them (contract section 8.2).
    pub by_capability: bool,
}

/// Why a chain did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A plugin failed.
    #[error("plugin {plugin} failed ({doing}): {source}")]
    Plugin {
        /// Which.
        plugin: String,
        /// What it was to do.
        doing: &'static str,
        /// What it says, or why it could not be run.
        source: PluginError,
    },
    /// What a plugin printed is no result.
    #[error("plugin {plugin} failed (add): unable to decode its result: {source}")]
    Decode {
        /// Which.
        plugin: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The result cannot be kept, or forgotten.
    #[error("failed to set network {network:?} cached result: {source}")]
    Cache {
        /// Name of the network.
        network: String,
        /// What the system said.
        source: io::Error,
    },
    /// The command came with a later version.
    #[error("configuration version {version:?} does not support {command}")]
    Version {
        /// That of the network.
        version: &'static str,
        /// The command.
        command: &'static str,
    },
}

impl Chain<'_> {
    /// Returns the result of the last plugin. What a plugin that fails leaves behind, and what
    /// those before it made, is for DEL.
    pub fn add(&self, extra: &Extra) -> Result<Map<String, Value>, ChainError> {
        let mut result: Option<Map<String, Value>> = None;
        for plugin in &self.list.plugins {
            let mut netconf = self.netconf(plugin, result.as_ref());
            if !extra.metadata.is_empty() {
                netconf.insert("metadata".into(), Value::Object(extra.metadata.clone()));
            }
            if let Some(told) = extra.told(plugin) {
                netconf.insert("runtimeConfig".into(), Value::Object(told));
            }
            let output = self.run(plugin, "ADD", "add", &netconf)?;
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
        self.kept().store(&result).map_err(|source| self.not_kept(source))?;
        Ok(result)
    }

    /// Success when there is nothing to undo, as far as the plugins keep to the specification.
    pub fn del(&self) -> Result<(), ChainError> {
        let version = self.list.version;
        let result = version.del_has_result().then(|| self.kept().load()).flatten();
        for plugin in self.list.plugins.iter().rev() {
            self.run(plugin, "DEL", "delete", &self.netconf(plugin, result.as_ref()))?;
        }
        self.kept().remove().map_err(|source| self.not_kept(source))
    }

    /// Compares the interface with the result of ADD; nothing is done where the network forbids it.
    pub fn check(&self) -> Result<(), ChainError> {
        if self.list.check_is_off {
            return Ok(());
        }
        self.since("0.4.0", "CHECK")?;
        let result = self.kept().load();
        for plugin in &self.list.plugins {
            self.run(plugin, "CHECK", "check", &self.netconf(plugin, result.as_ref()))?;
        }
        Ok(())
    }

    /// Whether every plugin can ADD.
    pub fn status(&self) -> Result<(), ChainError> {
        self.since("1.1.0", "STATUS")?;
        for plugin in &self.list.plugins {
            self.run(plugin, "STATUS", "status", &self.netconf(plugin, None))?;
        }
        Ok(())
    }

    /// Has every plugin remove what belongs to none of these, container and interface each.
    pub fn gc(&self, valid: &[(&str, &str)]) -> Result<(), ChainError> {
        self.since("1.1.0", "GC")?;
        let valid: Vec<_> = valid
            .iter()
            .map(|(container, ifname)| json!({"containerID": container, "ifname": ifname}))
            .collect();
        for plugin in &self.list.plugins {
            let mut netconf = self.netconf(plugin, None);
            netconf.insert("cni.dev/valid-attachments".into(), json!(valid));
            self.run(plugin, "GC", "gc", &netconf)?;
        }
        Ok(())
    }

    fn since(&self, first: &str, command: &'static str) -> Result<(), ChainError> {
        if Some(self.list.version) >= Version::read(first) {
            return Ok(());
        }
        Err(ChainError::Version { version: self.list.version.name(), command })
    }

    fn kept(&self) -> Kept<'_> {
        let Self { list, results, container, ifname, .. } = *self;
        Kept { directory: results, network: &list.name, container, ifname }
    }

    fn not_kept(&self, source: io::Error) -> ChainError {
        ChainError::Cache { network: self.list.name.clone(), source }
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
        doing: &'static str,
        netconf: &Map<String, Value>,
    ) -> Result<Vec<u8>, ChainError> {
        let own: [(&str, &OsStr); 6] = [
            ("CNI_COMMAND", command.as_ref()),
            ("CNI_CONTAINERID", self.container.as_ref()),
            ("CNI_NETNS", self.netns.as_os_str()),
            ("CNI_IFNAME", self.ifname.as_ref()),
            ("CNI_ARGS", self.arguments.as_ref()),
            ("CNI_PATH", self.plugin_dir.as_os_str()),
        ];
        let variables: Vec<_> = self.variables.iter().chain(&own).copied().collect();
        let text = json!(netconf).to_string();
        exec::find(self.plugin_dir, &plugin.kind)
            .and_then(|program| exec::run(&program, &variables, text.as_bytes()))
            .map_err(|source| ChainError::Plugin { plugin: plugin.to_string(), doing, source })
    }
}

impl Extra {
    /// What a plugin is told as its `runtimeConfig`; none when there is nothing that it wants.
    fn told(&self, plugin: &Plugin) -> Option<Map<String, Value>> {
        if !self.by_capability {
            return Some(self.runtime_config.clone());
        }
        let wanted = plugin.netconf.get("capabilities")?.as_object()?;
        let keys = self.runtime_config.iter();
        let told: Map<_, _> = keys
            .filter(|(key, _)| wanted.get(*key).and_then(Value::as_bool) == Some(true))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        (!told.is_empty()).then_some(told)
    }
}
