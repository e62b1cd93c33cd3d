//! Acting in another network namespace.
//!
//! setns(2) changes the calling thread for good, so the work is done on a thread of its own that
//! ends afterwards; no other thread ever leaves the agent's namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Runs `work` in the namespace and waits for it.
pub fn inside<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The inode that identifies the namespace.
pub fn inode(netns: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(File::from(netns.try_clone_to_owned()?).metadata()?.ino())
}

/// The inode of the namespace that this thread is in.
pub fn own_inode() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Opens the namespace at `path` if it is still the one with that inode.
pub fn open_same(path: &Path, wanted: u64) -> io::Result<OwnedFd> {
    let netns = OwnedFd::from(File::open(path)?);
    if inode(netns.as_fd())? == wanted {
        Ok(netns)
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, "the path belongs to another namespace now"))
    }
}

/// Whether the namespace with that inode is certainly not at `path` any more. It is not opened, which
/// would keep it alive.
pub fn is_elsewhere(path: &Path, wanted: u64) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => found.ino() != wanted,
        Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}
