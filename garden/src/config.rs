//! The configuration file, with the keys of Cloud Foundry's `adapter.json` (contract sections 8
//! and 13.8).
//!
//! `iptables_lock_file`, `proxy_port` and `proxy_uid` are not needed, as nothing is done with
//! iptables here. Other keys are not looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::json::{JsonError, Object};

/// The file, of which only the text before messages is known.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    object: Object,
    log_prefix: String,
}

/// What the file says.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where the CNI plugins are.
    pub(crate) cni_plugin_dir: PathBuf,
    /// Where the configuration of the CNI network is.
    pub(crate) cni_config_dir: PathBuf,
    /// Where namespaces of containers are mounted.
    pub(crate) bind_mount_dir: PathBuf,
    /// Where it is kept which port belongs to which container.
    pub(crate) state_file: PathBuf,
    /// Lowest port of the cell that is given to containers.
    pub(crate) first_port: u16,
    /// Highest one.
    pub(crate) last_port: u16,
    /// Domains for the resolvers of containers.
    pub(crate) search_domains: Vec<String>,
    /// Whether a proxy in the container is asked for (contract section 8.5).
    pub(crate) proxy_redirect: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("reading config file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("parsing config ({}): {source}", path.display())]
    Parse { path: PathBuf, source: JsonError },
    #[error("missing required config '{0}'")]
    Missing(&'static str),
    #[error("start_port {0} is no port; the highest is 65535")]
    StartPort(u32),
}

impl ConfigFile {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_owned();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let read = Object::read(&text).and_then(|mut object| {
            let log_prefix = object.take("log_prefix")?;
            Ok((object, log_prefix))
        });
        match read {
            Ok((object, log_prefix)) => Ok(Self { path, object, log_prefix }),
            Err(source) => Err(ConfigError::Parse { path, source }),
        }
    }

    /// What stands before messages, if the file says it.
    pub(crate) fn log_prefix(&self) -> Option<&str> {
        Some(self.log_prefix.as_str()).filter(|prefix| !prefix.is_empty())
    }

    /// What the file says. Of several mistakes the first one is told, in the contract's order.
    pub(crate) fn config(mut self) -> Result<Config, ConfigError> {
        let cni_plugin_dir = self.path("cni_plugin_dir")?;
        let cni_config_dir = self.path("cni_config_dir")?;
        let bind_mount_dir = self.path("bind_mount_dir")?;
        let state_file = self.path("state_file")?;
        let start: u32 = self.number("start_port")?;
        let total: u32 = self.number("total_ports")?;
        if self.log_prefix.is_empty() {
            return Err(ConfigError::Missing("log_prefix"));
        }
        let first_port = u16::try_from(start).map_err(|_| ConfigError::StartPort(start))?;
        // The contract's defaults, 5000 ports from 61000 on, reach beyond the highest one.
        let last_port = u16::try_from(start.saturating_add(total - 1)).unwrap_or(u16::MAX);
        let cidr: String = self.take("proxy_redirect_cidr")?;
        let ingress: bool = self.take("enable_ingress_proxy_redirect")?;
        let search_domains = self.take("search_domains")?;
        let proxy_redirect = ingress || !cidr.is_empty();
        Ok(Config {
            cni_plugin_dir,
            cni_config_dir,
            bind_mount_dir,
            state_file,
            first_port,
            last_port,
            search_domains,
            proxy_redirect,
        })
    }

    fn path(&mut self, key: &'static str) -> Result<PathBuf, ConfigError> {
        let path: PathBuf = self.take(key)?;
        if path.as_os_str().is_empty() { Err(ConfigError::Missing(key)) } else { Ok(path) }
    }

    fn number(&mut self, key: &'static str) -> Result<u32, ConfigError> {
        let number = self.take(key)?;
        if number == 0 { Err(ConfigError::Missing(key)) } else { Ok(number) }
    }

    fn take<T: DeserializeOwned + Default>(&mut self, key: &'static str) -> Result<T, ConfigError> {
        let taken = self.object.take(key);
        taken.map_err(|source| ConfigError::Parse { path: self.path.clone(), source })
    }
}
