//! Which ports of the cell belong to which container (contract section 8.4).
//!
//! The state file is locked with flock. It is replaced as a whole, so that a crash at any point
//! leaves the old or the new content; who gets the lock of a file that was replaced meanwhile
//! takes that of the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use crate::json::{JsonError, Object};

/// Longest state file that is read, in bytes.
const STATE_MAX: u64 = 16 << 20;

/// The ports of the cell that may be given to containers.
#[derive(Debug)]
pub(crate) struct Ports<'a> {
    /// Where it is kept whose they are.
    pub(crate) state_file: &'a Path,
    /// The lowest.
    pub(crate) first: u16,
    /// The highest.
    pub(crate) last: u16,
}

/// Why ports cannot be given or taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error("open lock: {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("decoding state file: {}: {source}", path.display())]
    Decode { path: PathBuf, source: io::Error },
    #[error("acquire port: port pool exhausted")]
    Exhausted,
    #[error("encode and overwrite: {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The content of the state file. A container's ports are in the order in which it got them.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pool {
    acquired_ports: BTreeMap<String, Vec<u16>>,
}

impl Ports<'_> {
    /// `count` ports for a container: first those that it has already, from a call that did not
    /// come to its end, then the lowest free ones. None of `except`. All of them, or none.
    pub(crate) fn hold(
        &self,
        handle: &str,
        count: usize,
        except: &[u16],
    ) -> Result<Vec<u16>, PortError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        self.change(|pool| {
            let had = pool.acquired_ports.get(handle).cloned().unwrap_or_default();
            let usable =
                |port: &u16| (self.first..=self.last).contains(port) && !except.contains(port);
            let mut held: Vec<_> = had.into_iter().filter(usable).take(count).collect();
            held.extend(self.acquire(pool, handle, count - held.len(), except)?);
            Ok(held)
        })
    }

    /// One more port for a container: the lowest free one.
    pub(crate) fn add(&self, handle: &str) -> Result<u16, PortError> {
        self.change(|pool| {
            self.acquire(pool, handle, 1, &[])?.first().copied().ok_or(PortError::Exhausted)
        })
    }

    /// Takes one port back from a container.
    pub(crate) fn release(&self, handle: &str, port: u16) -> Result<(), PortError> {
        self.change(|pool| {
            if let Some(ports) = pool.acquired_ports.get_mut(handle) {
                ports.retain(|have| *have != port);
            }
            Ok(())
        })
    }

    /// Takes all ports back from a container.
    pub(crate) fn release_all(&self, handle: &str) -> Result<(), PortError> {
        self.change(|pool| {
            pool.acquired_ports.remove(handle);
            Ok(())
        })
    }

    /// Gives the container the `count` lowest free ports, all of them or none.
    fn acquire(
        &self,
        pool: &mut Pool,
        handle: &str,
        count: usize,
        except: &[u16],
    ) -> Result<Vec<u16>, PortError> {
        let taken: BTreeSet<u16> =
            pool.acquired_ports.values().flatten().chain(except).copied().collect();
        let free = (self.first..=self.last).filter(|port| !taken.contains(port));
        let new: Vec<_> = free.take(count).collect();
        if new.len() < count {
            return Err(PortError::Exhausted);
        }
        if count > 0 {
            pool.acquired_ports.entry(handle.to_owned()).or_default().extend(&new);
        }
        Ok(new)
    }

    /// Changes the state, alone and durably; writes nothing when nothing changed.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Pool) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let path = || self.state_file.to_owned();
        let file =
            lock(self.state_file).map_err(|source| PortError::Lock { path: path(), source })?;
        let text = read(&file).map_err(|source| PortError::Decode { path: path(), source })?;
        let mut pool = decode(&text)
            .map_err(|e| PortError::Decode { path: path(), source: io::Error::other(e) })?;
        let done = change(&mut pool)?;
        pool.acquired_ports.retain(|_, ports| !ports.is_empty());
        let mut after = serde_json::to_vec(&pool)
            .map_err(|source| PortError::Write { path: path(), source: source.into() })?;
        after.push(b'\n');
        if after != text {
            replace(self.state_file, &after)
                .map_err(|source| PortError::Write { path: path(), source })?;
        }
        Ok(done)
    }
}

/// Opens the file, made if it is not there, and waits until nobody else has it locked.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
        let locked = file.metadata()?;
        match fs::metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == (locked.dev(), locked.ino()) => return Ok(file),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(STATE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > STATE_MAX {
        return Err(io::Error::other(format!("it is longer than {STATE_MAX} bytes")));
    }
    Ok(text)
}

/// A file without content is as good as none.
fn decode(text: &[u8]) -> Result<Pool, JsonError> {
    let text = if text.trim_ascii().is_empty() { b"{}" } else { text };
    Ok(Pool { acquired_ports: Object::read(text)?.take("acquired_ports")? })
}

/// Who does this has the lock: the new file's name is nobody else's, and one that a crash has left
/// is used again.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push("_new");
    let mut new =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&name)?;
    new.write_all(text)?;
    new.sync_all()?;
    fs::rename(&name, path)?;
    // The renaming itself lives in the directory.
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"acquired_ports":{"one":[61002,61000]}}"#;

    /// What is done with three ports from 61000 on, what came of it, and the file afterwards.
    #[test]
    fn the_lowest_free_ports_are_given() {
        type Do = fn(&Ports<'_>) -> Result<Vec<u16>, PortError>;
        type Row =
            (&'static str, &'static str, Do, Result<&'static [u16], &'static str>, &'static str);
        let table: &[Row] = &[
            ("none is asked for", "", |p| p.hold("a", 0, &[]), Ok(&[]), ""),
            (
                "the file is empty",
                "",
                |p| p.hold("a", 2, &[]),
                Ok(&[61_000, 61_001]),
                r#"{"acquired_ports":{"a":[61000,61001]}}"#,
            ),
            (
                "others have some",
                ONE,
                |p| p.hold("a", 1, &[]),
                Ok(&[61_001]),
                r#"{"acquired_ports":{"a":[61001],"one":[61002,61000]}}"#,
            ),
            ("it has them already", ONE, |p| p.hold("one", 2, &[]), Ok(&[61_002, 61_000]), ONE),
            ("it has more", ONE, |p| p.hold("one", 1, &[]), Ok(&[61_002]), ONE),
            (
                "it has some",
                ONE,
                |p| p.hold("one", 3, &[]),
                Ok(&[61_002, 61_000, 61_001]),
                r#"{"acquired_ports":{"one":[61002,61000,61001]}}"#,
            ),
            (
                "the container names one itself",
                r#"{"acquired_ports":{}}"#,
                |p| p.hold("a", 1, &[61_000]),
                Ok(&[61_001]),
                r#"{"acquired_ports":{"a":[61001]}}"#,
            ),
            (
                "too few are left, and none is taken",
                ONE,
                |p| p.hold("a", 2, &[]),
                Err("acquire port: port pool exhausted"),
                ONE,
            ),
            (
                "one more",
                ONE,
                |p| p.add("one").map(|port| vec![port]),
                Ok(&[61_001]),
                r#"{"acquired_ports":{"one":[61002,61000,61001]}}"#,
            ),
            (
                "one less",
                ONE,
                |p| p.release("one", 61_002).map(|()| vec![]),
                Ok(&[]),
                r#"{"acquired_ports":{"one":[61000]}}"#,
            ),
            (
                "all go",
                ONE,
                |p| p.release_all("one").map(|()| vec![]),
                Ok(&[]),
                r#"{"acquired_ports":{}}"#,
            ),
            ("nothing goes", ONE, |p| p.release_all("two").map(|()| vec![]), Ok(&[]), ONE),
        ];
        for (what, before, act, expected, after) in table {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("state.json");
            fs::write(&path, before).unwrap();
            let done = act(&Ports { state_file: &path, first: 61_000, last: 61_002 });
            let done = done.map_err(|error| error.to_string());
            assert_eq!(done, expected.map(<[u16]>::to_vec).map_err(ToOwned::to_owned), "{what}");
            assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), *after, "{what}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "{what}");
        }
    }

    #[test]
    fn a_damaged_file_is_not_guessed_at() {
        for damage in ["{", "[]", r#"{"acquired_ports":{"one":["x"]}}"#, r#"{"acquired_ports":{"#] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("state.json");
            fs::write(&path, damage).unwrap();
            let held = Ports { state_file: &path, first: 61_000, last: 61_002 }.hold("a", 1, &[]);
            let message = held.unwrap_err().to_string();
            assert!(message.starts_with("decoding state file: "), "{message}");
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damage);
        }
    }
}
