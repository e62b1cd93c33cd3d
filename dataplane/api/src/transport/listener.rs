//! The serving end.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, Backlog, SockFlag, UnixAddr};
use rustix::net::SocketFlags;

use super::{Connection, TransportError, connection::new_socket};

/// A served socket. Removes its path when dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Held as long as the socket is served; the kernel lets go of it however the process ends.
    _lock: File,
}

impl Listener {
    /// Serves `path` with permission bits `mode`; makes the directories above it. A socket that a
    /// dead process left there is replaced; one that is served is not ([`TransportError::InUse`]).
    /// The two are told apart by a lock on a file beside it, `<path>.lock`.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, TransportError> {
        let failed = |operation: &'static str| {
            move |source: io::Error| TransportError::Path {
                operation,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(lock_path)
            .map_err(failed("open the lock file of"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(TransportError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(failed("lock")(e)),
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                fs::remove_file(path).map_err(failed("remove the stale socket"))?;
            }
            Ok(_) => return Err(TransportError::NotASocket { path: path.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("look at")(e)),
        }
        let address = UnixAddr::new(path).map_err(|e| failed("serve")(e.into()))?;
        let socket = new_socket(SockFlag::SOCK_NONBLOCK).map_err(|e| failed("serve")(e.into()))?;
        socket::bind(socket.as_raw_fd(), &address).map_err(|e| failed("serve")(e.into()))?;
        // Before listen(2), so that nobody gets in under the permissions of the umask.
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(failed("set the permissions of"))?;
        socket::listen(&socket, Backlog::MAXCONN).map_err(|e| failed("serve")(e.into()))?;
        Ok(Self { socket, path: path.to_owned(), _lock: lock })
    }

    /// Waits for the next client, or until `stop` becomes readable or is hung up (none then).
    pub fn accept(&self, stop: BorrowedFd<'_>) -> Result<Option<Connection>, TransportError> {
        let failed = |source: io::Error| TransportError::Path {
            operation: "accept a connection on",
            path: self.path.clone(),
            source,
        };
        loop {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(failed(e.into())),
            }
            if fds[1].any().unwrap_or(true) {
                return Ok(None);
            }
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(Some(Connection::from_socket(socket))),
                // The client left before its turn, or there was none yet.
                Err(
                    rustix::io::Errno::AGAIN
                    | rustix::io::Errno::INTR
                    | rustix::io::Errno::CONNABORTED,
                ) => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The lock is still held here, so this is our socket; the lock file stays for the next.
        let _ = fs::remove_file(&self.path);
    }
}
