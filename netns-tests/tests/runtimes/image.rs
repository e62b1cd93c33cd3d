//! What the containers run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use sarcenet_rig::checked;

/// Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";
/// What of it the containers use.
const APPLETS: [&str; 9] =
    ["cat", "dd", "httpd", "mkdir", "nslookup", "sh", "sleep", "timeout", "wget"];

/// TCP port of the server in every container.
pub(crate) const PORT: u16 = 8080;
/// Size of what the server has under `/large`, in bytes.
pub(crate) const LARGE: usize = 1_000_000;

/// Makes the file system of all containers below a directory.
pub(crate) fn tree(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("image");
    for place in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(place)).context("make the image's directories")?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))
        .with_context(|| format!("copy {BUSYBOX} (of the package busybox-static)"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).context("make the image's links")?;
    }
    // Runtimes mount theirs there.
    fs::write(root.join("etc/resolv.conf"), "").context("make the image's resolv.conf")?;
    Ok(root)
}

/// Packs it.
pub(crate) fn archive(root: &Path) -> Result<PathBuf> {
    let file = root.with_extension("tar");
    checked(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&file).arg("."))?;
    Ok(file)
}

/// What a container of this name runs: a server of its name, and of something large, which ends
/// when it is asked to.
pub(crate) fn command(name: &str) -> [String; 4] {
    let script = format!(
        "trap 'exit 0' TERM\n\
         mkdir -p /tmp/$0\n\
         echo $0 > /tmp/$0/index.html\n\
         dd if=/dev/zero of=/tmp/$0/large bs={LARGE} count=1 2> /dev/null\n\
         httpd -p {PORT} -h /tmp/$0\n\
         sleep 100000 &\n\
         wait\n"
    );
    ["/bin/sh".to_owned(), "-c".to_owned(), script, name.to_owned()]
}
