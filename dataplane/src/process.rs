//! What the process may do: limits up, privileges down.

#![forbid(unsafe_code)]

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};

/// Capabilities that later work needs.
///
/// `CAP_NET_ADMIN`: the uplink is opened when the controller says where. The buffers of its sockets
/// are larger than `net.core.rmem_max` allows others (`SO_RCVBUFFORCE`, socket(7)), the TAP for whole
/// super-packets is made and set up, or an XDP program attached and neighbours resolved.
///
/// `CAP_NET_RAW`: a packet socket watches how the uplink's probe leaves, and AF_XDP sockets ask for
/// it as packet sockets of any kind do.
///
/// `CAP_BPF`: the XDP program is loaded (bpf(2)).
///
/// `CAP_IPC_LOCK`: the memory of AF_XDP sockets is locked, and is more than the usual limit
/// (`RLIMIT_MEMLOCK`).
///
/// Nothing else: a TUN queue that arrives as a descriptor is read and written without any
/// capability, its offloads are set without any (drivers/net/tun.c checks rights when a device is
/// attached only), and files are opened before.
const KEPT: [Capability; 4] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_NET_RAW,
    Capability::CAP_IPC_LOCK,
];

/// Why limits or privileges could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A capability set could not be read or changed.
    #[error("cannot change the {set} capabilities: {source}")]
    Capabilities {
        /// Which set.
        set: &'static str,
        /// What the system said.
        source: caps::errors::CapsError,
    },
    /// A system call failed.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        source: nix::Error,
    },
}

/// Allows as many open descriptors as the hard limit does, because each container is one. Returns
/// that number.
pub fn raise_descriptor_limit() -> Result<u64, ProcessError> {
    let failed = |operation| move |source| ProcessError::System { operation, source };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(failed("read the limit of open files (RLIMIT_NOFILE)"))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .map_err(failed("raise the limit of open files (RLIMIT_NOFILE)"))?;
    }
    Ok(hard)
}

/// Gives up every privilege that is not needed any more, for this thread and those it will start;
/// so it must be called before any is started. A program that is executed from here on gains
/// nothing either. Returns the capabilities that are left.
pub fn drop_privileges() -> Result<CapsHashSet, ProcessError> {
    let failed = |set| move |source| ProcessError::Capabilities { set, source };
    prctl::set_no_new_privs()
        .map_err(|source| ProcessError::System { operation: "set no_new_privs", source })?;
    let held = caps::read(None, CapSet::Permitted).map_err(failed("permitted"))?;
    // Emptied while CAP_SETPCAP is still there; without it there is nothing to gain from the set,
    // because no_new_privs keeps it from ever being used.
    if held.contains(&Capability::CAP_SETPCAP) {
        caps::clear(None, CapSet::Bounding).map_err(failed("bounding"))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("ambient"))?;
    caps::clear(None, CapSet::Inheritable).map_err(failed("inheritable"))?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|cap| held.contains(cap)).collect();
    caps::set(None, CapSet::Effective, &kept).map_err(failed("effective"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed("permitted"))?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Capabilities are a thread's own, so a thread of its own can lose them.
    #[test]
    fn what_is_given_up_is_gone() {
        let outcome = std::thread::spawn(|| {
            let kept = drop_privileges().unwrap();
            let left = caps::read(None, CapSet::Permitted).unwrap();
            (kept, left, caps::read(None, CapSet::Inheritable).unwrap(), prctl::get_no_new_privs())
        });
        let (kept, left, inheritable, no_new_privs) = outcome.join().unwrap();
        assert_eq!(kept, left);
        assert!(left.is_subset(&KEPT.into_iter().collect()));
        assert!(inheritable.is_empty());
        assert_eq!(no_new_privs, Ok(true));
    }

    #[test]
    fn descriptors_up_to_the_hard_limit() {
        let hard = raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
