//! The store of containers' metadata, which other programs of the cell read (contract section 7.11).
//!
//! Everybody takes the lock, and reads the file only when its version is another. Unlike the
//! contract's plugin this one replaces the file as a whole: nobody who is killed leaves half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group, Uid, User};
use serde_json::{Map, Value, json};

/// Where it is, and whose it is to be; an empty name leaves that to the system.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    pub(super) path: PathBuf,
    pub(super) owner: &'a str,
    pub(super) group: &'a str,
}

type Entries = BTreeMap<String, Value>;

impl Store<'_> {
    /// Adds a container, or changes what is said of it.
    pub(super) fn add(
        &self,
        container: &str,
        address: Ipv4Addr,
        metadata: Option<&Map<String, Value>>,
    ) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let entry = json!({"handle": container, "ip": address, "metadata": metadata});
        self.change(|entries| entries.insert(container.to_owned(), entry.clone()) != Some(entry))
    }

    /// Takes a container out, if it is there.
    pub(super) fn remove(&self, container: &str) -> io::Result<()> {
        if !self.path.try_exists()? {
            return Ok(());
        }
        self.change(|entries| entries.remove(container).is_some())
    }

    /// Takes all containers out but these.
    pub(super) fn retain(&self, containers: &BTreeSet<String>) -> io::Result<()> {
        if !self.path.try_exists()? {
            return Ok(());
        }
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|container, _| containers.contains(container));
            entries.len() != before
        })
    }

    /// Writes what `edit` makes of the entries, if it says that they are others.
    fn change(&self, edit: impl FnOnce(&mut Entries) -> bool) -> io::Result<()> {
        let lock = open(&self.beside("_lock"))?;
        self.hand_over(&lock)?;
        let _locked = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
        let mut entries = self.read()?;
        if !edit(&mut entries) {
            return Ok(());
        }
        let mut text = serde_json::to_vec(&entries)?;
        text.push(b'\n');
        self.replace(&self.path, &text)?;
        let version = self.beside("_version");
        let before = fs::read_to_string(&version).unwrap_or_default();
        // A version that nobody can read is as good as none; any other one is a change.
        let next = before.trim().parse::<u64>().unwrap_or(0).wrapping_add(1);
        self.replace(&version, next.to_string().as_bytes())
    }

    fn read(&self) -> io::Result<Entries> {
        match fs::read(&self.path) {
            Ok(text) if text.trim_ascii().is_empty() => Ok(Entries::new()),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                let path = self.path.display();
                io::Error::other(format!("decoding file {path}: {error}; remove it"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let _ = fs::remove_file(&new);
        let mut file = open(&new)?;
        file.write_all(content)?;
        self.hand_over(&file)?;
        fs::rename(new, path)
    }

    fn hand_over(&self, file: &File) -> io::Result<()> {
        let unknown = |what: &str, name: &str| io::Error::other(format!("unknown {what} {name}"));
        let owner: Option<Uid> = match self.owner {
            "" => None,
            name => Some(User::from_name(name)?.ok_or_else(|| unknown("user", name))?.uid),
        };
        let group: Option<Gid> = match self.group {
            "" => None,
            name => Some(Group::from_name(name)?.ok_or_else(|| unknown("group", name))?.gid),
        };
        nix::unistd::fchown(file, owner, group)?;
        file.set_permissions(Permissions::from_mode(0o600))
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(end);
        name.into()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}
