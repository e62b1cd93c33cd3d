//! Results of ADD, kept for DEL where libcni keeps them and in its form, so that either can take
//! down what the other attached.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::IFNAME;

/// libcni's directory.
const DIRECTORY: &str = "/var/lib/cni/results";
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

fn path(network: &str, handle: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{network}-{handle}-{IFNAME}"))
}

/// A result that is not whole yet. A crash may leave it to the next call for the container, which
/// has it to itself.
fn new_path(network: &str, handle: &str) -> PathBuf {
    path(network, handle).with_added_extension("new")
}

/// Keeps a result. Whole or not at all, but not through a loss of power, which containers do not
/// survive either.
pub(super) fn store(network: &str, handle: &str, result: &Map<String, Value>) -> io::Result<()> {
    let cached = Cached {
        kind: KIND.to_owned(),
        container_id: handle.to_owned(),
        if_name: IFNAME.to_owned(),
        network_name: network.to_owned(),
        result: result.clone(),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY)?;
    let new = new_path(network, handle);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?
        .write_all(&serde_json::to_vec(&cached)?)?;
    fs::rename(new, path(network, handle))
}

/// The result of ADD, if one is kept. One that cannot be read is as good as none: plugins must be
/// able to do without, and DEL must go on.
pub(super) fn load(network: &str, handle: &str) -> Option<Map<String, Value>> {
    let text = fs::read(path(network, handle)).ok()?;
    let cached: Cached = serde_json::from_slice(&text).ok()?;
    (cached.kind == KIND).then_some(cached.result)
}

/// Forgets a result.
pub(super) fn remove(network: &str, handle: &str) -> io::Result<()> {
    for path in [path(network, handle), new_path(network, handle)] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
