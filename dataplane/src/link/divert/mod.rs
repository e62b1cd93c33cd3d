//! The way in from the outside: which packets leave the kernel where they arrive, and go to the
//! dataplane by the host's TUN.
//!
//! A program of traffic control (`bpf/divert.bpf.c`) hangs on the interface with the underlay
//! address, for other hosts, and on loopback, for the cell's own processes. It stays when the
//! dataplane ends: were it gone, the kernel would answer the packets of living conversations with
//! resets. The next dataplane puts its own in its place.
//!
//! What it diverts, the kernel strips of its Ethernet header and hands to the TUN as it is, a
//! super-packet whole. What turns out to be nobody's goes back by the TUN unchanged, and is then
//! the kernel's like any packet.

mod filter;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use filter::Hook;
use ipnet::Ipv4Net;
use nix::net::if_::{if_nameindex, if_nametoindex};
use sarcenet_dataplane_api::PortRange;

use super::bpf::{self, Aligned, LoadError, PortTable, TakenPorts};
use super::interface;

static OBJECT: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/divert.bpf.o")));

/// Index of the loopback interface (`LOOPBACK_IFINDEX` of the Linux kernel).
const LOOPBACK: u32 = 1;

/// What is to be diverted, besides ports that can be changed later, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The cell's underlay address.
    pub underlay: Ipv4Addr,
    /// The cell's part of the overlay. Its first address is the cell's own, and stays with the
    /// kernel.
    pub subnet: Ipv4Net,
    /// Name of the host's TUN.
    pub door: String,
    /// Ports, and identifiers of ICMP echo, that source NAT uses. None: none.
    pub snat_ports: Option<PortRange>,
}

/// Why traffic cannot be diverted.
#[derive(Debug, thiserror::Error)]
pub enum DivertError {
    /// No interface of this namespace has the underlay address.
    #[error("no interface has the underlay address {0}; give the cell one, or name its address")]
    NoInterface(Ipv4Addr),
    /// An interface could not be asked about.
    #[error("asking about interface {interface}: {source}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program did not get into the kernel.
    #[error("loading the program that diverts traffic to the cell: {0}")]
    Load(#[from] LoadError),
    /// The program could not be attached to an interface, or taken off it.
    #[error(
        "{operation} the program that diverts traffic {interface}: {source} ({})",
        cure(source)
    )]
    Filter {
        /// `attaching` or `detaching`.
        operation: &'static str,
        /// `at` or `from` which interface.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program's table of ports could not be changed.
    #[error("changing which ports of the cell are diverted: {0}; some may be changed already")]
    Ports(#[source] io::Error),
}

/// What an error of rtnetlink(7) about a filter means.
fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "CAP_NET_ADMIN is missing",
        Some(libc::ENODEV) => "the interface is gone",
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            "the kernel lacks CONFIG_NET_CLS_BPF or CONFIG_NET_SCH_INGRESS, or their modules \
             cls_bpf and sch_ingress cannot be loaded"
        }
        Some(libc::EINVAL | libc::EEXIST) => {
            "another filter has this program's priority: `tc filter show dev INTERFACE ingress` \
             shows it"
        }
        _ => "see the kernel's log",
    }
}

/// The diversion of a cell's traffic. It goes on when this is dropped, until [`detach`].
pub struct Divert {
    settings: Settings,
    place: Place,
    /// The kernel's number of the program, for each of the hooks.
    numbers: [u32; 2],
    ports: PortTable,
    /// Kept, so that its number is not given to another one.
    program: OwnedFd,
}

/// Between which devices traffic is diverted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Name and index of the interface with the underlay address.
    underlay: (String, u32),
    /// Index of the host's TUN.
    door: u32,
}

impl Place {
    fn find(settings: &Settings) -> Result<Self, DivertError> {
        let underlay = interface::with_address(settings.underlay)
            .map_err(|(interface, source)| DivertError::Interface { interface, source })?
            .ok_or(DivertError::NoInterface(settings.underlay))?;
        let door = if_nametoindex(settings.door.as_str()).map_err(|errno| {
            DivertError::Interface { interface: settings.door.clone(), source: errno.into() }
        })?;
        Ok(Self { underlay, door })
    }

    fn hooks(&self) -> [(&str, Hook); 2] {
        let (name, interface) = &self.underlay;
        [(name, Hook { interface: *interface }), ("lo", Hook { interface: LOOPBACK })]
    }
}

impl Divert {
    /// Diverts traffic in the current network namespace, in place of what diverted it before: from
    /// now on these mapped ports and those of source NAT. There is no moment in which what both
    /// divert is not.
    ///
    /// # Errors
    /// [`DivertError`]; what diverted traffic before goes on where it was not replaced.
    pub fn attach(settings: Settings, mapped: &TakenPorts) -> Result<Self, DivertError> {
        let place = Place::find(&settings)?;
        let source = bpf::Source {
            object: OBJECT,
            program: c"sarcenet_divert",
            constants: &constants(&settings, place.door),
            sizes: &[],
        };
        let (program, [ports]) = bpf::load(&source, [c"taken_ports"])?;
        let ports = PortTable::new(ports);
        let mut divert = Self { settings, place, numbers: [0; 2], ports, program };
        divert.set_ports(mapped)?;
        let hooks = divert.place.hooks();
        for (number, (name, hook)) in divert.numbers.iter_mut().zip(&hooks) {
            *number = hook.attach(&divert.program).map_err(|source| DivertError::Filter {
                operation: "attaching",
                interface: format!("at {name}"),
                source,
            })?;
        }
        detach_except(&hooks.map(|(_, hook)| hook))?;
        Ok(divert)
    }

    /// Whether traffic is still diverted as it was asked for. It is not when the underlay's
    /// address is at another interface, when that or the TUN was removed or made anew, or when
    /// somebody took a filter away; then it is to be attached again.
    pub fn is_in_force(&self) -> bool {
        Place::find(&self.settings).is_ok_and(|place| place == self.place)
            && self.place.hooks().iter().zip(self.numbers).all(|((_, hook), number)| {
                hook.attached().is_ok_and(|attached| attached == Some(number))
            })
    }

    /// Diverts these mapped ports, besides those of source NAT, and no others. A port that was
    /// diverted and stays so is so all the time.
    ///
    /// # Errors
    /// [`DivertError::Ports`].
    pub fn set_ports(&self, mapped: &TakenPorts) -> Result<(), DivertError> {
        self.ports.set(&mapped.and(self.settings.snat_ports)).map_err(DivertError::Ports)
    }

    /// Name of the interface with the underlay address.
    pub fn interface(&self) -> &str {
        &self.place.underlay.0
    }

    /// What is diverted besides mapped ports.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Ends what diverts traffic in the current network namespace, whichever process began it; success
/// when nothing does.
///
/// # Errors
/// [`DivertError`].
pub fn detach() -> Result<(), DivertError> {
    detach_except(&[])
}

fn detach_except(kept: &[Hook]) -> Result<(), DivertError> {
    let all = if_nameindex().map_err(|errno| DivertError::Interface {
        interface: "names".to_owned(),
        source: errno.into(),
    })?;
    for interface in &all {
        let hook = Hook { interface: interface.index() };
        if kept.contains(&hook) {
            continue;
        }
        hook.detach().map_err(|source| DivertError::Filter {
            operation: "detaching",
            interface: format!("from {}", interface.name().to_string_lossy()),
            source,
        })?;
    }
    Ok(())
}

/// What the program knows as `cell`.
fn constants(settings: &Settings, door: u32) -> [u8; 20] {
    // An empty range when there is none.
    let (first, last) = settings.snat_ports.map_or((1, 0), |ports| (ports.first, ports.last));
    let mut cell = [0; 20];
    cell[..4].copy_from_slice(&settings.underlay.octets());
    cell[4..8].copy_from_slice(&settings.subnet.network().octets());
    cell[8..12].copy_from_slice(&settings.subnet.netmask().octets());
    cell[12..16].copy_from_slice(&door.to_ne_bytes());
    cell[16..18].copy_from_slice(&first.to_ne_bytes());
    cell[18..20].copy_from_slice(&last.to_ne_bytes());
    cell
}
