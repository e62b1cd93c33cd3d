//! What the agent must know after a restart: its containers and their addresses.
//!
//! Every change is on the disk before it shows: the file is replaced as a whole and flushed
//! ([`crate::durable`]). A copy lies on the tmpfs of `/run`, which lives exactly as long as the
//! containers can. A file that cannot be read is moved aside and the copy used; without a copy
//! the machine has been restarted, no container is left, and the agent begins anew. Containers
//! of an earlier boot are forgotten likewise.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sarcenet_agent_api::{AttachKind, AttachmentId, Terms};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::paths::Root;

/// Shape of the file.
const FORMAT: u32 = 1;

/// A container on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Which interface of which container.
    #[serde(flatten)]
    pub id: AttachmentId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Path of its network namespace.
    pub netns_path: String,
    /// Inode of its network namespace: the path may come to mean another one.
    pub netns_inode: u64,
    /// Name of its CNI network; empty in files from before it was remembered.
    #[serde(default)]
    pub network: String,
    /// Its app.
    pub app: Option<String>,
    /// What its interface is made of; files from before there was a choice do not say it.
    #[serde(default)]
    pub kind: AttachKind,
    /// Its MAC address, if it was asked for.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes, if it was asked for.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// When it was attached, in seconds since 1970; older files do not say it.
    #[serde(default)]
    pub attached_at: Option<u64>,
    /// What its runtime said about it; older files do not say it.
    #[serde(default, with = "shared")]
    pub terms: Arc<Terms>,
}

/// What is shared in memory is written as if it were not.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        T::serialize(value, serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// Everything on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The address that was given last.
    pub last_address: Option<Ipv4Addr>,
    /// All containers.
    pub containers: BTreeMap<AttachmentId, Saved>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    /// The kernel's identifier of this boot.
    boot: String,
    last_address: Option<Ipv4Addr>,
    containers: Vec<Saved>,
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not written; the old state is still on the disk and in force.
    #[error("cannot write {path}: {source}; nothing was changed{hint}", hint = hint(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not readable, for a reason other than its content.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (make room on that file system and try again)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (the file system is mounted read-only)",
        _ => "",
    }
}

/// The state's place on disk.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    copy: PathBuf,
    boot: String,
}

impl Store {
    /// The state of the cell at `root`; makes the directories.
    pub fn new(root: &Root) -> Result<Self, StateError> {
        let boot_file = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = std::fs::read_to_string(boot_file)
            .map_err(|source| StateError::Read { path: boot_file.to_owned(), source })?;
        let (file, copy) = (root.state_file(), root.state_copy());
        for path in [&file, &copy] {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .map_err(|source| StateError::Write { path: path.clone(), source })?;
            }
        }
        Ok(Self { file, copy, boot: boot.trim().to_owned() })
    }

    /// Reads the state. The second value says what was wrong with it, for the operator.
    pub fn load(&self) -> Result<(State, Option<String>), StateError> {
        let damage = match self.read(&self.file)? {
            Ok(state) => return Ok((state, None)),
            Err(damage) => damage,
        };
        let aside = self.file.with_extension("json.damaged");
        std::fs::rename(&self.file, &aside)
            .map_err(|source| StateError::Write { path: aside.clone(), source })?;
        let (state, origin) = match self.read(&self.copy)? {
            Ok(state) if self.copy.exists() => {
                (state, format!("went on with the copy {}", self.copy.display()))
            }
            _ => (
                State::default(),
                "no copy of this boot is left, so began without containers".into(),
            ),
        };
        let problem = format!(
            "{} was damaged ({damage}); moved it to {} and {origin}",
            self.file.display(),
            aside.display()
        );
        Ok((state, Some(problem)))
    }

    /// Reads one file. The inner error is a damage of its content.
    fn read(&self, path: &Path) -> Result<Result<State, String>, StateError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ok(State::default())),
            Err(source) => return Err(StateError::Read { path: path.to_owned(), source }),
        };
        let document: Document = match serde_json::from_slice(&bytes) {
            Ok(document) => document,
            Err(e) => return Ok(Err(e.to_string())),
        };
        if document.format != FORMAT {
            let found = document.format;
            return Ok(Err(format!("format {found}, this program knows {FORMAT}")));
        }
        let mut state = State { last_address: document.last_address, ..State::default() };
        if document.boot == self.boot {
            for saved in document.containers {
                let address = saved.address;
                if state.containers.values().any(|other| other.address == address) {
                    return Ok(Err(format!("address {address} belongs to two containers")));
                }
                if let Some(twice) = state.containers.insert(saved.id.clone(), saved) {
                    return Ok(Err(format!("container {} is there twice", twice.id)));
                }
            }
        }
        Ok(Ok(state))
    }

    /// Writes the state.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        let document = Document {
            format: FORMAT,
            boot: self.boot.clone(),
            last_address: state.last_address,
            containers: state.containers.values().cloned().collect(),
        };
        let failed = |source| StateError::Write { path: self.file.clone(), source };
        let mut json =
            serde_json::to_vec_pretty(&document).map_err(|e| failed(io::Error::other(e)))?;
        json.push(b'\n');
        durable::replace(&self.file, &json, |_| Ok(())).map_err(failed)?;
        // The copy only matters when the file is damaged later: worth a line, not a failure.
        if let Err(e) = durable::replace(&self.copy, &json, |_| Ok(())) {
            tracing::warn!(copy = %self.copy.display(), "cannot write the copy of the state: {e}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
