//! What can keep the uplink from being opened, in the operator's words.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;

use crate::link::bpf::LoadError;

/// Why an uplink could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// No interface of this namespace has the underlay address.
    #[error("no interface has the underlay address {0}; give the cell one, or name its address")]
    NoInterface(Ipv4Addr),
    /// The interface could not be asked about.
    #[error("asking about interface {interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// Zero-copy was to be had, and the driver has none.
    #[error(
        "{interface} (driver {driver}) has no zero-copy for AF_XDP; without it the kernel's \
         sockets are faster"
    )]
    NoZeroCopy {
        /// The interface's name.
        interface: String,
        /// Name of its driver; empty when it does not say.
        driver: String,
    },
    /// The steering program did not get into the kernel.
    #[error("loading the XDP program: {0}")]
    Load(#[from] LoadError),
    /// The steering program could not be attached to the interface.
    #[error("attaching the XDP program to {interface} in {mode} mode: {source} ({cure})")]
    Attach {
        /// The interface's name.
        interface: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// What the system said.
        source: io::Error,
        /// What that means, and what to do.
        cure: &'static str,
    },
    /// A socket could not be opened.
    #[error("opening the AF_XDP socket of queue {queue} of {interface}: {source} ({cure})")]
    Socket {
        /// The interface's name.
        interface: String,
        /// Number of the queue.
        queue: u32,
        /// What the system said.
        source: io::Error,
        /// What that means, and what to do.
        cure: &'static str,
    },
    /// The steering program's table of sockets or of ports could not be changed.
    #[error("telling the XDP program about {what}: {source}")]
    Map {
        /// Which entry.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Routes and neighbours cannot be followed.
    #[error("following routes and neighbours by netlink: {0}")]
    Netlink(#[source] io::Error),
}

/// What an error of bpf(2), or of a socket of `AF_XDP`, means and what to do about it.
pub(super) fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "a capability is missing: it takes CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW, or a kernel \
             that is not locked down"
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => {
            "no memory, or more locked memory than the process may have: give it \
             CAP_IPC_LOCK, or raise the limit (LimitMEMLOCK=infinity, ulimit -l unlimited)"
        }
        Some(libc::EBUSY) => {
            "another XDP program or another AF_XDP socket has the interface or the queue: \
             `ip link show` and `ss --xdp` say whose it is"
        }
        Some(libc::ERANGE) => {
            "the interface's MTU is too large for XDP without multi-buffer in its driver: lower \
             the MTU, or use generic mode"
        }
        Some(libc::EEXIST) => "another XDP program is attached in the other mode: detach it first",
        Some(libc::EOPNOTSUPP) => "the driver, or this kernel, cannot do it: use generic mode",
        Some(libc::ENODEV | libc::ENXIO) => "the interface is gone",
        Some(libc::ENETDOWN) => "the interface is down: bring it up",
        Some(libc::EAFNOSUPPORT | libc::ENOSYS) => {
            "this kernel has no AF_XDP or no BPF (CONFIG_XDP_SOCKETS, CONFIG_BPF_SYSCALL)"
        }
        Some(libc::EINVAL) => {
            "the kernel is too old (multi-buffer AF_XDP came with 6.6), the MTU is too large for \
             the driver's XDP, or the queue does not exist"
        }
        _ => "see the kernel's log",
    }
}
