//! Results of ADD, kept for CHECK and DEL where libcni keeps them and in its form, so that either can
//! take down what the other attached.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// libcni's directory.
pub const RESULTS: &str = "/var/lib/cni/results";
/// What the form is called.
const KIND: &str = "cniCacheV1";

/// As much of the form as is needed; libcni has the configuration in it, too, and does without.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    kind: String,
    #[serde(default)]
    container_id: String,
    #[serde(default)]
    if_name: String,
    #[serde(default)]
    network_name: String,
    result: Map<String, Value>,
}

/// The place of one result.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) network: &'a str,
    pub(crate) container: &'a str,
    pub(crate) ifname: &'a str,
}

impl Kept<'_> {
    fn path(&self) -> PathBuf {
        let Self { directory, network, container, ifname } = self;
        directory.join(format!("{network}-{container}-{ifname}"))
    }

    /// A result that is not whole yet. A crash may leave it to the next call for the container, which
    /// has it to itself.
    fn new_path(&self) -> PathBuf {
        self.path().with_added_extension("new")
    }

    /// Keeps a result. Whole or not at all, but not through a loss of power, which containers do not
    /// survive either.
    pub(crate) fn store(&self, result: &Map<String, Value>) -> io::Result<()> {
        let cached = Cached {
            kind: KIND.to_owned(),
            container_id: self.container.to_owned(),
            if_name: self.ifname.to_owned(),
            network_name: self.network.to_owned(),
            result: result.clone(),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(self.directory)?;
        let new = self.new_path();
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?
            .write_all(&serde_json::to_vec(&cached)?)?;
        fs::rename(new, self.path())
    }

    /// The result of ADD, if one is kept. One that cannot be read is as good as none: plugins must be
    /// able to do without, and DEL must go on.
    pub(crate) fn load(&self) -> Option<Map<String, Value>> {
        let text = fs::read(self.path()).ok()?;
        let cached: Cached = serde_json::from_slice(&text).ok()?;
        (cached.kind == KIND).then_some(cached.result)
    }

    /// Forgets a result.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for path in [self.path(), self.new_path()] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}
