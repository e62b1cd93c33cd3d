//! One call at a time for each container.
//!
//! Locks are byte ranges of one file, so that none is left behind by a container that went. They
//! belong to an open file, which the plugins inherit: when a call is killed, the next one for its
//! container waits until the plugin that was running then has ended, and cannot be overtaken by it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;

/// How long an earlier call for the same container is waited for.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long between two looks; a call takes tens of milliseconds.
const PAUSE: Duration = Duration::from_millis(5);

/// Held as long as this lives, and as long as a plugin that was started meanwhile.
#[derive(Debug)]
pub(crate) struct HandleLock {
    _file: File,
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandleLockError {
    #[error("lock {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "another call for {handle} has been running for {} seconds; does a CNI plugin hang?",
        PATIENCE.as_secs()
    )]
    Busy { handle: String },
}

impl HandleLock {
    /// Waits until nobody else works on the container. The file lies beside the state file.
    pub(crate) fn take(state_file: &Path, handle: &str) -> Result<Self, HandleLockError> {
        let mut path = state_file.as_os_str().to_owned();
        path.push("_lock");
        let path = PathBuf::from(path);
        let wrong = |source: io::Error| HandleLockError::File { path: path.clone(), source };
        let file = open(&path).map_err(wrong)?;
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| wrong(e.into()))?;
        let range = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: place(handle),
            l_len: 1,
            l_pid: 0,
        };
        let until = Instant::now() + PATIENCE;
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&range)) {
                Ok(_) => return Ok(Self { _file: file }),
                Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() < until => sleep(PAUSE),
                Err(Errno::EAGAIN | Errno::EACCES) => {
                    return Err(HandleLockError::Busy { handle: handle.to_owned() });
                }
                Err(e) => return Err(wrong(e.into())),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Which byte of the file stands for a container: FNV-1a, 62 bits of it. Containers that share one
/// only wait for each other.
fn place(handle: &str) -> i64 {
    let hash = handle.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 2) as i64
}
