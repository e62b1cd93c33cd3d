//! What there is to know about the uplink's interface before it is opened.
#![expect(unsafe_code, reason = "ioctl(2) with SIOCETHTOOL")]

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use super::error::XdpError;
use crate::link::interface;

/// An interface of the calling thread's namespace.
#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Receive queues.
    pub(super) queues: u32,
    /// Name of its driver; empty when it does not say.
    pub(super) driver: String,
    /// Of its namespace; by it questions are asked.
    socket: UdpSocket,
}

impl Interface {
    /// The one that has this address.
    ///
    /// # Errors
    /// [`XdpError::NoInterface`], [`XdpError::Interface`].
    pub(super) fn with_address(address: Ipv4Addr) -> Result<Self, XdpError> {
        let (name, index) = interface::with_address(address)
            .map_err(|(interface, source)| XdpError::Interface { interface, source })?
            .ok_or(XdpError::NoInterface(address))?;
        let failed = |source| XdpError::Interface { interface: name.clone(), source };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
        let queues = receive_queues(&socket, &name).map_err(failed)?;
        let driver = driver(&socket, &name).map_err(failed)?;
        Ok(Self { name, index, queues, driver, socket })
    }

    /// How many receive queues it has by now.
    ///
    /// # Errors
    /// It cannot be asked any more.
    pub(super) fn queues_now(&self) -> io::Result<u32> {
        receive_queues(&self.socket, &self.name)
    }

    /// Whether it is one end of a veth pair.
    pub(super) fn is_veth(&self) -> bool {
        self.driver == "veth"
    }
}

/// `struct ethtool_channels` of `linux/ethtool.h`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// The beginning of `struct ethtool_drvinfo` of `linux/ethtool.h`, and room for the rest.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const ETHTOOL_GDRVINFO: u32 = 0x3;

/// What ethtool's calls fill: plain data that begins with the command.
///
/// # Safety
/// As long as the kernel's structure for that command, and valid whatever the bytes.
unsafe trait Question {}

// SAFETY: nine numbers, as in the kernel's structure.
unsafe impl Question for Channels {}

// SAFETY: bytes and a number, 196 bytes as the kernel's structure is.
unsafe impl Question for DriverInfo {}

const _: () = assert!(size_of::<Channels>() == 36 && size_of::<DriverInfo>() == 196);

/// How many receive queues an interface uses. One where its driver does not say.
fn receive_queues(socket: &UdpSocket, name: &str) -> io::Result<u32> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let answered = ask(socket, name, &mut channels)?;
    Ok(if answered { (channels.rx + channels.combined).max(1) } else { 1 })
}

/// Name of an interface's driver. Empty where it does not say.
fn driver(socket: &UdpSocket, name: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    ask(socket, name, &mut info)?;
    let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}

/// Asks the driver of an interface. Returns whether it knows the question.
fn ask<Q: Question>(socket: &UdpSocket, name: &str, question: &mut Q) -> io::Result<bool> {
    // SAFETY: plain data, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(question).cast();
    // SAFETY: the request names an interface and points at a structure of the command's size,
    // as `Question` promises; both live for the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        error => Err(error),
    }
}
