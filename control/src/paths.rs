//! Where everything is, under one movable root.

use std::path::{Path, PathBuf};

/// The directory that `/etc`, `/run` and `/var/lib` are looked for in; `/` normally, another one
/// for each cell when several run on one machine.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// Everything under `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The root itself.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The network file.
    pub fn network_file(&self) -> PathBuf {
        self.0.join("etc/sarcenet/network.yaml")
    }

    /// The control file.
    pub fn control_file(&self) -> PathBuf {
        self.0.join("etc/sarcenet/control.yaml")
    }

    /// Where certificates are looked for and made.
    pub fn certs_directory(&self) -> PathBuf {
        self.0.join("etc/sarcenet/certs")
    }

    /// The servers' database, unless the control file names another one. It is apart from the
    /// agent's state: the servers run as a user of their own.
    pub fn database_file(&self) -> PathBuf {
        self.0.join("var/lib/sarcenet-control/control.db")
    }

    /// The agent's socket.
    pub fn agent_socket(&self) -> PathBuf {
        sarcenet_agent_api::socket_path(&self.0)
    }

    /// The dataplane's socket.
    pub fn dataplane_socket(&self) -> PathBuf {
        self.0.join("run/sarcenet/dataplane.sock")
    }

    /// Where the absolute path `path` is.
    pub fn below(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Records of conversations, unless the network file names another file.
    pub fn events_file(&self) -> PathBuf {
        self.0.join("var/log/sarcenet/events.jsonl")
    }

    /// The agent's durable state.
    pub fn state_file(&self) -> PathBuf {
        self.0.join("var/lib/sarcenet/containers.json")
    }

    /// The cell's lease and those of the others.
    pub fn lease_file(&self) -> PathBuf {
        self.0.join("var/lib/sarcenet/lease.json")
    }

    /// What the cell's resolver reads.
    pub fn resolver_file(&self) -> PathBuf {
        self.0.join("etc/resolv.conf")
    }

    /// A copy of the agent's durable state that lives as long as the containers do: until the machine restarts.
    pub fn state_copy(&self) -> PathBuf {
        self.0.join("run/sarcenet/containers.json")
    }

    /// What the agent was told by the policy server.
    pub fn followed_file(&self) -> PathBuf {
        self.0.join("var/lib/sarcenet/followed.json")
    }
}
