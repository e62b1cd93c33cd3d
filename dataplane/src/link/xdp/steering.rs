//! The XDP program that decides which packets leave the kernel (`bpf/steer.bpf.c`): loading,
//! attaching, and its tables.
#![expect(unsafe_code, reason = "libbpf, which speaks bpf(2) for us, is a C library")]

use std::ffi::{CStr, c_void};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use parking_lot::Mutex;

use super::error::{XdpError, cure};

/// Aligned as the headers in an ELF file are.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));

/// Bytes for what the kernel's verifier has to say.
const LOG_LEN: usize = 64 * 1024;

/// Ports in one word of the table.
const PORTS_PER_WORD: u32 = 64;

/// Words of the table for one protocol.
const WORDS: usize = 65_536 / PORTS_PER_WORD as usize;

/// A bit for each port: TCP, then UDP.
type PortBits = [[u64; WORDS]; 2];

/// Ports at the cell's address whose packets are the dataplane's and not the kernel's: those of its
/// source NAT, and mapped host ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenPorts {
    /// Of TCP.
    pub tcp: Vec<RangeInclusive<u16>>,
    /// Of UDP.
    pub udp: Vec<RangeInclusive<u16>>,
}

impl TakenPorts {
    fn bits(&self) -> Box<PortBits> {
        let mut bits: Box<PortBits> = Box::new([[0; WORDS]; 2]);
        for (words, ranges) in bits.iter_mut().zip([&self.tcp, &self.udp]) {
            for port in ranges.iter().cloned().flatten().map(u32::from) {
                words[(port / PORTS_PER_WORD) as usize] |= 1 << (port % PORTS_PER_WORD);
            }
        }
        bits
    }
}

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
    taken_ports: OwnedFd,
    largest: OwnedFd,
    /// What the table of ports holds. Changed under the lock, word by word.
    ports: Mutex<Box<PortBits>>,
    link: Option<OwnedFd>,
}

unsafe extern "C" {
    /// In libbpf, as all the others, but missing among the bindings. The argument is a function
    /// that prints, or null; so is what it returns.
    fn libbpf_set_print(print: *const c_void) -> *const c_void;
}

/// An opened object file, closed with everything in it that was not duplicated.
struct Object(NonNull<libxdp_sys::bpf_object>);

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object was opened by `bpf_object__open_mem` and is closed only here.
        unsafe { libxdp_sys::bpf_object__close(self.0.as_ptr()) };
    }
}

impl Object {
    /// Opens the embedded file. `log` is where the verifier writes; it must outlive the object.
    fn open(log: &mut [u8]) -> io::Result<Self> {
        // SAFETY: null is allowed and means that nothing is printed; what libbpf would say to
        // standard error, the errors and the log do.
        unsafe { libbpf_set_print(ptr::null()) };
        // SAFETY: plain data, for which all zeroes is valid and means "not given".
        let mut options: libxdp_sys::bpf_object_open_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of_val(&options);
        options.kernel_log_buf = log.as_mut_ptr().cast();
        options.kernel_log_size = log.len();
        options.kernel_log_level = 1;
        // SAFETY: the bytes are static and the options live for the call; the log outlives the
        // object, as this function asks for.
        let object = unsafe {
            libxdp_sys::bpf_object__open_mem(
                OBJECT.0.as_ptr().cast(),
                OBJECT.0.len(),
                &raw const options,
            )
        };
        NonNull::new(object).map(Self).ok_or_else(io::Error::last_os_error)
    }

    fn map(&self, name: &CStr) -> io::Result<NonNull<libxdp_sys::bpf_map>> {
        // SAFETY: the object is open, the name ends with a zero byte.
        let map =
            unsafe { libxdp_sys::bpf_object__find_map_by_name(self.0.as_ptr(), name.as_ptr()) };
        NonNull::new(map).ok_or_else(io::Error::last_os_error)
    }

    /// A descriptor of a map of the loaded object.
    fn map_fd(&self, name: &CStr) -> io::Result<OwnedFd> {
        let map = self.map(name)?;
        // SAFETY: the map is one of this object, which is open.
        duplicate(unsafe { libxdp_sys::bpf_map__fd(map.as_ptr()) })
    }

    /// Sets what the program knows as `cell`, before it is loaded.
    fn set_cell(&self, address: Ipv4Addr, tunnel_port: u16) -> io::Result<()> {
        let mut value = [0; 8];
        value[..4].copy_from_slice(&address.octets());
        value[4..6].copy_from_slice(&tunnel_port.to_be_bytes());
        let map = self.map(c".rodata")?;
        let mut len = 0;
        // SAFETY: the map is one of this object; libbpf returns where its initial value lies and
        // how long it is, and it stays there until the object is loaded. At most that much is
        // written.
        unsafe {
            let at = libxdp_sys::bpf_map__initial_value(map.as_ptr(), &raw mut len);
            if at.is_null() || len < value.len() {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            ptr::copy_nonoverlapping(value.as_ptr(), at.cast::<u8>(), value.len());
        }
        Ok(())
    }
}

impl Steering {
    /// Loads the program for a cell with this underlay address and tunnel port, with room for the
    /// sockets of `queues` queues. It steers nothing until it is attached.
    ///
    /// # Errors
    /// [`XdpError::Load`].
    pub(super) fn load(address: Ipv4Addr, tunnel_port: u16, queues: u32) -> Result<Self, XdpError> {
        let mut log = vec![0; LOG_LEN];
        Self::load_logged(address, tunnel_port, queues, &mut log).map_err(|source| {
            let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            let log =
                if said.is_empty() { String::new() } else { format!("\n{}", said.trim_end()) };
            XdpError::Load { cure: cure(&source), source, log }
        })
    }

    fn load_logged(
        address: Ipv4Addr,
        tunnel_port: u16,
        queues: u32,
        log: &mut [u8],
    ) -> io::Result<Self> {
        let object = Object::open(log)?;
        object.set_cell(address, tunnel_port)?;
        let sockets = object.map(c"sockets")?;
        // SAFETY: the map is one of this object, which is not loaded yet.
        check(unsafe { libxdp_sys::bpf_map__set_max_entries(sockets.as_ptr(), queues) })?;
        // SAFETY: the object is open.
        check(unsafe { libxdp_sys::bpf_object__load(object.0.as_ptr()) })?;
        // SAFETY: the object is loaded, the name ends with a zero byte, and the program that is
        // found belongs to the object.
        let program = unsafe {
            let program =
                libxdp_sys::bpf_object__find_program_by_name(object.0.as_ptr(), c"steer".as_ptr());
            if program.is_null() {
                return Err(io::Error::last_os_error());
            }
            libxdp_sys::bpf_program__fd(program)
        };
        Ok(Self {
            program: duplicate(program)?,
            sockets: object.map_fd(c"sockets")?,
            taken_ports: object.map_fd(c"taken_ports")?,
            largest: object.map_fd(c"largest")?,
            ports: Mutex::new(Box::new([[0; WORDS]; 2])),
            link: None,
        })
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
        let new = taken.bits();
        let mut now = self.ports.lock();
        for (key, (now, &new)) in (0..).zip(now.iter_mut().flatten().zip(new.iter().flatten())) {
            if *now != new {
                update(&self.taken_ports, key, &new)
                    .map_err(|source| XdpError::Map { what: "ports".to_owned(), source })?;
                *now = new;
            }
        }
        Ok(())
    }

    /// Says how long the largest inner packet is, in bytes.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub(super) fn set_largest(&self, mtu: u16) -> Result<(), XdpError> {
        update(&self.largest, 0, &u32::from(mtu))
            .map_err(|source| XdpError::Map { what: "the MTU".to_owned(), source })
    }

    /// What the program says about a frame, as if it came in at queue 0 (`BPF_PROG_TEST_RUN`).
    #[cfg(test)]
    pub(super) fn judge(&self, frame: &[u8]) -> io::Result<u32> {
        // SAFETY: plain data, for which all zeroes is valid and means "not given".
        let mut options: libxdp_sys::bpf_test_run_opts = unsafe { std::mem::zeroed() };
        options.sz = size_of_val(&options);
        options.data_in = frame.as_ptr().cast();
        options.data_size_in = frame.len() as u32;
        // SAFETY: the descriptor is that of a loaded program; the frame, which is only read, and
        // the options live for the call.
        check(unsafe {
            libxdp_sys::bpf_prog_test_run_opts(self.program.as_raw_fd(), &raw mut options)
        })?;
        Ok(options.retval)
    }
}

/// Sets an entry of a map whose keys are `u32` and whose values are of the size of `T`.
fn update<T: Copy>(map: &OwnedFd, key: u32, value: &T) -> io::Result<()> {
    // SAFETY: key and value live for the call, which reads as much of them as the map's entries
    // are long: the callers give values of that size.
    check(unsafe {
        libxdp_sys::bpf_map_update_elem(
            map.as_raw_fd(),
            (&raw const key).cast(),
            ptr::from_ref(value).cast(),
            0,
        )
    })
}

/// Turns what libbpf returns (a negative errno) into a result.
fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// A descriptor of our own for one that libbpf closes with its object.
fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: libbpf has it open, for at least as long as the caller holds the object.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
