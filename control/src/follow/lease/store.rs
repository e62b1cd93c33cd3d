//! Leases on disk: the cell's own and those of the others, so that an agent can start with every
//! server down.
//!
//! The file is replaced as a whole ([`crate::durable`]). One that cannot be understood is moved
//! aside; the cell's own device still shows its lease then.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sarcenet_server::lease::Lease;
use sarcenet_server::leases::LeaseBody;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::paths::Root;

/// Shape of the file.
const FORMAT: u32 = 1;

/// What is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The cell's own lease.
    pub lease: Lease,
    /// When it was renewed last, by the cell's clock.
    pub renewed: SystemTime,
    /// All leases, as the subnet controller listed them last.
    pub cells: Vec<Lease>,
}

impl Saved {
    /// The time since the last renewal; none when the clock was set back since.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.renewed).ok()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    lease: LeaseBody,
    /// Seconds since the epoch.
    renewed_at: u64,
    cells: Vec<LeaseBody>,
}

/// Why leases could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseStoreError {
    /// Not written; what was there is still there.
    #[error("cannot write {path}: {source}; a restart would begin with older leases")]
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
    /// Not removed.
    #[error("cannot remove {path}: {source}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The leases' place on disk.
#[derive(Debug, Clone)]
pub struct LeaseStore {
    file: PathBuf,
}

impl LeaseStore {
    /// That of the cell at `root`.
    pub fn new(root: &Root) -> Self {
        Self { file: root.lease_file() }
    }

    /// What is there. The second value says what was wrong with it, for the operator.
    pub fn load(&self) -> Result<(Option<Saved>, Option<String>), LeaseStoreError> {
        let bytes = match std::fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((None, None)),
            Err(source) => {
                return Err(LeaseStoreError::Read { path: self.file.clone(), source });
            }
        };
        let damage = match parse(&bytes) {
            Ok(saved) => return Ok((Some(saved), None)),
            Err(damage) => damage,
        };
        let aside = self.file.with_extension("json.damaged");
        std::fs::rename(&self.file, &aside)
            .map_err(|source| LeaseStoreError::Write { path: aside.clone(), source })?;
        let problem = format!(
            "{} was damaged ({damage}); moved it to {}",
            self.file.display(),
            aside.display()
        );
        Ok((None, Some(problem)))
    }

    /// Writes it.
    pub fn save(&self, saved: &Saved) -> Result<(), LeaseStoreError> {
        let failed = |source| LeaseStoreError::Write { path: self.file.clone(), source };
        let since_epoch = saved.renewed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let document = Document {
            format: FORMAT,
            lease: LeaseBody::from(&saved.lease),
            renewed_at: since_epoch.as_secs(),
            cells: saved.cells.iter().map(LeaseBody::from).collect(),
        };
        let mut json =
            serde_json::to_vec_pretty(&document).map_err(|e| failed(io::Error::other(e)))?;
        json.push(b'\n');
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        durable::replace(&self.file, &json, |_| Ok(())).map_err(failed)
    }

    /// Removes it; success when it is not there.
    pub fn remove(&self) -> Result<(), LeaseStoreError> {
        match std::fs::remove_file(&self.file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(LeaseStoreError::Remove { path: self.file.clone(), source: e })
            }
            _ => Ok(()),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Saved, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let Document { format, lease, renewed_at, cells } = document;
    if format != FORMAT {
        return Err(format!("format {format}, this program knows {FORMAT}"));
    }
    let lease = Lease::try_from(lease).map_err(|e| e.to_string())?;
    let renewed = UNIX_EPOCH.checked_add(Duration::from_secs(renewed_at));
    let renewed = renewed.ok_or_else(|| format!("renewed_at {renewed_at} is no time"))?;
    let cells: Result<_, _> = cells.into_iter().map(Lease::try_from).collect();
    Ok(Saved { lease, renewed, cells: cells.map_err(|e| e.to_string())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, LeaseStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = LeaseStore::new(&Root::new(directory.path()));
        (directory, store)
    }

    fn lease(last: u8) -> Lease {
        let subnet = format!("10.255.{last}.0/24").parse().unwrap();
        let underlay = [10, 77, 0, last].into();
        Lease { underlay, subnet, mac: [0xee, 0xee, 10, 255, last, 0] }
    }

    fn saved() -> Saved {
        let renewed = UNIX_EPOCH + Duration::from_hours(500_000);
        Saved { lease: lease(1), renewed, cells: vec![lease(1), lease(2)] }
    }

    #[test]
    fn what_was_written_is_read() {
        let (_directory, store) = store();
        assert_eq!(store.load().unwrap(), (None, None));
        store.remove().unwrap();
        store.save(&saved()).unwrap();
        assert_eq!(store.load().unwrap(), (Some(saved()), None));
        store.remove().unwrap();
        assert_eq!(store.load().unwrap(), (None, None));
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        let (_directory, store) = store();
        store.save(&saved()).unwrap();
        let good = std::fs::read_to_string(&store.file).unwrap();
        for (from, to) in [
            ("\"format\": 1", "\"format\": 2"),
            ("10.77.0.2", "10.77.0"),
            ("10.255.1.0/24", "10.255.1.0/33"),
            ("1800000000", "-1"),
            ("1800000000", "18446744073709551615"),
            ("}\n", ""),
        ] {
            std::fs::write(&store.file, good.replace(from, to)).unwrap();
            let (found, problem) = store.load().unwrap();
            let problem = problem.unwrap();
            assert!(found.is_none() && problem.contains("was damaged ("), "{to}: {problem}");
            assert_eq!(store.load().unwrap(), (None, None), "{to}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_tells_no_age() {
        let saved = saved();
        let hour = Duration::from_hours(1);
        assert_eq!(saved.age(saved.renewed + hour), Some(hour));
        assert_eq!(saved.age(saved.renewed - hour), None);
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
