//! The ioctls of `<linux/if_tun.h>`.
#![expect(unsafe_code, reason = "ioctl(2) has no safe interface")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use libc::{c_int, c_uint, c_ulong};

/// Name and flags of the device behind a descriptor (`TUNGETIFF`).
pub(crate) struct Interface {
    pub(crate) name: String,
    /// `IFF_*` flags of the device.
    pub(crate) flags: c_int,
}

/// Asks which device a descriptor is attached to.
pub(crate) fn interface(fd: BorrowedFd<'_>) -> io::Result<Interface> {
    // SAFETY: an ifreq is plain data; all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq to the address given, which lives for the whole call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: the kernel filled in `ifr_name` and `ifru_flags`; the name is bounded by its array,
    // whose last byte is zero because the kernel copies a device name of at most IFNAMSIZ - 1.
    let (name, flags) = unsafe {
        request.ifr_name[libc::IFNAMSIZ - 1] = 0;
        (CStr::from_ptr(request.ifr_name.as_ptr()), request.ifr_ifru.ifru_flags)
    };
    Ok(Interface { name: name.to_string_lossy().into_owned(), flags: c_int::from(flags as u16) })
}

/// Sets which offloads the reader of the device understands (`TUNSETOFFLOAD`).
pub(crate) fn set_offload(fd: BorrowedFd<'_>, offloads: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(offloads)) })
}

/// Sets the length of the header in front of packets (`TUNSETVNETHDRSZ`).
pub(crate) fn set_vnet_header_len(fd: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int from the address given, which lives for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// Makes the device stay, or go, when its last descriptor is closed (`TUNSETPERSIST`).
pub(crate) fn set_persist(fd: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, c_ulong::from(persist)) })
}

/// Opens the network namespace that the device is in (`TUNGETDEVNETNS`).
pub(crate) fn device_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument.
    let namespace = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETDEVNETNS) };
    check(namespace)?;
    // SAFETY: the kernel has just opened this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// Hardware address of the device (`SIOCGIFHWADDR`, which tun.c answers on the device's own
/// descriptor).
pub(crate) fn hardware_address(fd: BorrowedFd<'_>) -> io::Result<[u8; 6]> {
    // SAFETY: an ifreq is plain data; all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: SIOCGIFHWADDR writes one ifreq to the address given, which lives for the whole call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: the kernel filled in `ifru_hwaddr`.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    Ok(std::array::from_fn(|at| data[at] as u8))
}

/// The descriptor of a device that crate `tun` opened.
pub(crate) fn into_fd(device: tun::Device) -> OwnedFd {
    // SAFETY: into_raw_fd gives up the ownership of an open descriptor; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
