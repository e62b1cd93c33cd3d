//! The XDP program that decides which packets leave the kernel (`bpf/steer.bpf.c`): loading,
//! attaching, and its tables.
#![expect(unsafe_code, reason = "libbpf, which speaks bpf(2) for us, is a C library")]

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::error::XdpError;
use crate::link::bpf::{self, Aligned, PortTable, TakenPorts, check, update};

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));

/// Where in the kernel's path the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel has made a packet of it.
    Native,
    /// After the driver; works with every driver and every MTU.
    Generic,
}

impl AttachMode {
    /// `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE` of `linux/if_link.h`.
    const fn flags(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
        }
    }

    /// `native` or `generic`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The loaded program. It is attached as long as its link lives, and so never outlives the
/// process.
pub(super) struct Steering {
    program: OwnedFd,
    sockets: OwnedFd,
    ports: PortTable,
    largest: OwnedFd,
    link: Option<OwnedFd>,
}

impl Steering {
    /// Loads the program for a cell with this underlay address and tunnel port, with room for the
    /// sockets of `queues` queues. It steers nothing until it is attached.
    ///
    /// # Errors
    /// [`XdpError::Load`].
    pub(super) fn load(address: Ipv4Addr, tunnel_port: u16, queues: u32) -> Result<Self, XdpError> {
        let mut cell = [0; 8];
        cell[..4].copy_from_slice(&address.octets());
        cell[4..6].copy_from_slice(&tunnel_port.to_be_bytes());
        let source = bpf::Source {
            object: OBJECT,
            program: c"steer",
            constants: &cell,
            sizes: &[(c"sockets", queues)],
        };
        let (program, [sockets, ports, largest]) =
            bpf::load(&source, [c"sockets", c"taken_ports", c"largest"])?;
        Ok(Self { program, sockets, ports: PortTable::new(ports), largest, link: None })
    }

    /// Attaches it to an interface, until it is dropped.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(super) fn attach(&mut self, index: u32, mode: AttachMode) -> io::Result<()> {
        // SAFETY: plain data, for which all zeroes is valid and means "not given".
        let mut options: libxdp_sys::bpf_link_create_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of_val(&options);
        options.flags = mode.flags();
        // SAFETY: the descriptor is that of a loaded program, the options live for the call.
        let link = unsafe {
            libxdp_sys::bpf_link_create(
                self.program.as_raw_fd(),
                index as i32,
                libxdp_sys::bpf_attach_type_BPF_XDP,
                &raw const options,
            )
        };
        check(link)?;
        // SAFETY: the call made this descriptor for us, and nobody else knows it.
        self.link = Some(unsafe { OwnedFd::from_raw_fd(link) });
        Ok(())
    }

    /// Lets packets of a queue go to a socket.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub(super) fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        update(&self.sockets, queue, &socket.as_raw_fd()).map_err(|source| XdpError::Map {
            what: format!("the socket of queue {queue}"),
            source,
        })
    }

    /// Takes these ports at the cell's address from the kernel, and gives all others back.
    ///
    /// # Errors
    /// [`XdpError::Map`]; some of the ports may be changed then.
    pub(super) fn set_taken_ports(&self, taken: &TakenPorts) -> Result<(), XdpError> {
        self.ports
            .set(taken)
            .map_err(|source| XdpError::Map { what: "taken ports".to_owned(), source })
    }

    /// Says how long the largest inner packet is, in bytes.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub(super) fn set_largest(&self, mtu: u16) -> Result<(), XdpError> {
        update(&self.largest, 0, &u32::from(mtu))
            .map_err(|source| XdpError::Map { what: "the MTU".to_owned(), source })
    }

    /// What the program says about a frame, as if it came in at queue 0.
    #[cfg(test)]
    pub(super) fn judge(&self, frame: &[u8]) -> io::Result<u32> {
        bpf::judge(&self.program, frame, 0)
    }
}
