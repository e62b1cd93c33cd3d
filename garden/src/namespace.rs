//! Network namespaces of containers, and the files that they are mounted on, by which CNI plugins
//! find them (contract section 8.2, step 1).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The descriptor by which Garden passes the namespace when it does not name a process.
const INHERITED: &str = "/proc/self/fd/3";

/// A container's namespace, held by a descriptor: it stays the same whatever its process does.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// What was inherited as descriptor 3, if anything. To be called before anything else is
    /// opened, which could get that number.
    pub(crate) fn inherited() -> Option<Self> {
        open(Path::new(INHERITED)).ok().map(Self)
    }

    /// The namespace of `pid`, or `inherited` when that is 0; and how it is called in messages.
    pub(crate) fn named(pid: i32, inherited: Option<Self>) -> (String, io::Result<Self>) {
        if pid == 0 {
            let missing = || io::Error::other("neither a pid nor descriptor 3 came from Garden");
            return (INHERITED.to_owned(), inherited.ok_or_else(missing));
        }
        let path = format!("/proc/{pid}/ns/net");
        let opened = open(Path::new(&path)).map(Self);
        (path, opened)
    }

    /// Mounts it on the file `target`, which is made if it is not there. Whatever was mounted on it
    /// before is no longer.
    pub(crate) fn mount(&self, target: &Path) -> io::Result<()> {
        let own = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        if !fs::read_link(&own)?.as_os_str().as_bytes().starts_with(b"net:[") {
            return Err(io::Error::other("it is not a network namespace"));
        }
        let ours = identity(&own)?;
        match identity(target) {
            Ok(mounted) if mounted == ours => return Ok(()),
            Ok(_) => unmount(target)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(directory) = target.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                }
            }
            Err(e) => return Err(e),
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(target)?;
        Ok(mount(Some(&own), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    }
}

/// Takes away what is mounted on `target`, and `target`. Success when there is nothing.
pub(crate) fn remove(target: &Path) -> io::Result<()> {
    unmount(target)?;
    match fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Takes away all mounts on `target`, one above the other. Lazily: somebody may be looking at them.
fn unmount(target: &Path) -> io::Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not, or no longer, a mount point.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Only to name it, so that nothing waits that is no namespace, like a pipe.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
