//! One TUN device.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::c_int;
use tun::{AbstractDevice as _, Layer};

use crate::{VNET_HEADER_LEN, sys};

/// What a device does for its reader and writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Packets may have a checksum that is still to be filled in.
    pub csum: bool,
    /// TCP super-packets pass whole.
    pub tso: bool,
    /// UDP super-packets pass whole (Linux 6.2 and later).
    pub uso: bool,
}

impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("vnet-hdr")?;
        for (on, word) in [(self.csum, " csum"), (self.tso, " tso"), (self.uso, " uso")] {
            if on {
                f.write_str(word)?;
            }
        }
        Ok(())
    }
}

/// Why a TUN device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The device could not be made or attached to.
    #[error(
        "opening TUN device {name}: {source} (EPERM: CAP_NET_ADMIN is missing; EBUSY: another \
         process holds it; EINVAL: a device of that name exists and is of another kind; ENOENT: \
         the tun module is not there)"
    )]
    Open {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A name that no network device can have.
    #[error("'{0}' is no name for a network device: 1 to 15 bytes, without '/', '%' or spaces")]
    BadName(String),
    /// A descriptor that is not a TUN device.
    #[error("the descriptor is not attached to a TUN device: {0}")]
    NotTun(io::Error),
    /// A TUN device of another kind.
    #[error("TUN device {name} was not opened as IFF_TUN | IFF_NO_PI | IFF_VNET_HDR")]
    WrongKind {
        /// Its name.
        name: String,
    },
    /// An ioctl failed.
    #[error("{call} on TUN device {name}: {source}")]
    Ioctl {
        /// Which.
        call: &'static str,
        /// Name of the device.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

impl TunError {
    /// Whether the descriptor's device is gone, with its namespace or by itself.
    pub fn is_gone(&self) -> bool {
        let (Self::NotTun(source) | Self::Ioctl { source, .. }) = self else { return false };
        source.raw_os_error() == Some(libc::EBADFD)
    }
}

/// A TUN device, held by one descriptor (its only queue).
#[derive(Debug)]
pub struct TunDevice {
    fd: OwnedFd,
    name: String,
    features: Features,
}

impl TunDevice {
    /// Makes a TUN in the current network namespace, or attaches to the persistent one of that
    /// name, and turns its offloads on. The device is down and has no address; its queue length is
    /// the kernel's default of 500 packets, enough for the window of a fast TCP stream (the
    /// packets in it are orphaned, so that the sender's TCP small queues do not bound it).
    ///
    /// # Errors
    /// [`TunError`]; `CAP_NET_ADMIN` is needed in the namespace.
    pub fn open(name: &str) -> Result<Self, TunError> {
        check_name(name)?;
        Self::attach(name)
    }

    /// Makes a TUN in the current network namespace under a name that no device there has:
    /// `prefix` and a number.
    ///
    /// # Errors
    /// As [`TunDevice::open`].
    pub fn create(prefix: &str) -> Result<Self, TunError> {
        check_name(prefix)?;
        // The kernel looks for the number (`dev_alloc_name`).
        Self::attach(&format!("{prefix}%d"))
    }

    fn attach(name: &str) -> Result<Self, TunError> {
        Self::from_fd(open(name, Layer::L3, None)?)
    }

    /// Adopts a descriptor that another process opened, in whatever namespace its device is, and
    /// turns the offloads on again (they are the device's, so this changes nothing when they are).
    ///
    /// # Errors
    /// [`TunError`] when it is no TUN, one of another kind, or its namespace is gone.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, TunError> {
        let interface = sys::interface(fd.as_fd()).map_err(TunError::NotTun)?;
        let name = interface.name;
        let wanted = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if interface.flags & (wanted | libc::IFF_TAP) != wanted {
            return Err(TunError::WrongKind { name });
        }
        if let Err(source) = sys::set_vnet_header_len(fd.as_fd(), VNET_HEADER_LEN as c_int) {
            return Err(TunError::Ioctl { call: "TUNSETVNETHDRSZ", name, source });
        }
        let features = match probe(fd.as_fd()) {
            Ok(features) => features,
            Err(source) => return Err(TunError::Ioctl { call: "TUNSETOFFLOAD", name, source }),
        };
        Ok(Self { fd, name, features })
    }

    /// Whether the device stays when its last descriptor is closed.
    ///
    /// # Errors
    /// [`TunError::Ioctl`].
    pub fn persist(&self, persist: bool) -> Result<(), TunError> {
        sys::set_persist(self.fd.as_fd(), persist).map_err(|source| TunError::Ioctl {
            call: "TUNSETPERSIST",
            name: self.name.clone(),
            source,
        })
    }

    /// Name of the device when it was opened or adopted.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The network namespace that the device is in now (`TUNGETDEVNETNS`, Linux 5.7). The
    /// descriptor that is returned keeps the namespace alive; that of the device does not, unless
    /// it was opened in there.
    ///
    /// # Errors
    /// [`TunError::Ioctl`]; `CAP_NET_ADMIN` is needed in that namespace.
    pub fn namespace(&self) -> Result<OwnedFd, TunError> {
        sys::device_namespace(self.fd.as_fd()).map_err(|source| TunError::Ioctl {
            call: "TUNGETDEVNETNS",
            name: self.name.clone(),
            source,
        })
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a device with virtio-net headers, or attaches to the persistent one of that name. It
/// is set up with `address` if there is one; without, that is its owner's business.
pub(crate) fn open(
    name: &str,
    layer: Layer,
    address: Option<Ipv4Addr>,
) -> Result<OwnedFd, TunError> {
    let failed = |error| TunError::Open {
        name: name.to_owned(),
        source: match error {
            tun::Error::Io(source) => source,
            other => io::Error::other(other),
        },
    };
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).layer(layer).platform_config(|platform| {
        platform.vnet_hdr(true).ensure_root_privileges(false);
    });
    let mut device = tun::create(&configuration).map_err(failed)?;
    if let Some(address) = address {
        device
            .set_address(address.into())
            .and_then(|()| device.set_netmask(Ipv4Addr::BROADCAST.into()))
            .and_then(|()| device.enabled(true))
            .map_err(failed)?;
    }
    Ok(sys::into_fd(device))
}

/// Checks that a network device can have this name.
///
/// # Errors
/// [`TunError::BadName`].
pub fn check_name(name: &str) -> Result<(), TunError> {
    let valid = (1..libc::IFNAMSIZ).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'%' | b':'));
    if valid { Ok(()) } else { Err(TunError::BadName(name.to_owned())) }
}

/// Turns on as much as the kernel has. `IPv6` goes with `IPv4` because the kernel ties them
/// together for UDP (`tun_set_offload`); nothing else is lost by it.
fn probe(fd: BorrowedFd<'_>) -> io::Result<Features> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let rungs = [
        (tcp | udp, Features { csum: true, tso: true, uso: true }),
        (tcp, Features { csum: true, tso: true, uso: false }),
        (libc::TUN_F_CSUM, Features { csum: true, tso: false, uso: false }),
        (0, Features::default()),
    ];
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for (offloads, features) in rungs {
        match sys::set_offload(fd, offloads) {
            Ok(()) => return Ok(features),
            // EINVAL names offloads that this kernel does not know; anything else is about the
            // device.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
