//! Which of the kernel's traffic comes to the workers by the host's door, for the way to the
//! outside: what [`crate::link::divert`] does, kept up while interfaces come and go.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sarcenet_dataplane_api::PortRange;
use sarcenet_tun::{TunDevice, TunError};

use super::{TakenPorts, Workers};
use crate::link::divert::{self, Divert, DivertError, Settings};
use crate::link::xdp::XdpError;

/// What is to be taken from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideSettings {
    /// The cell's underlay address.
    pub underlay: Ipv4Addr,
    /// The cell's part of the overlay.
    pub subnet: Ipv4Net,
    /// Ports, and identifiers of ICMP echo, that source NAT uses.
    pub snat_ports: Option<PortRange>,
    /// Mapped ports.
    pub mapped: TakenPorts,
}

/// Why the kernel's traffic cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// The way to the outside is the host's door.
    #[error("there is no host TUN, through which containers would reach the outside")]
    NoHost,
    /// The host's door has no name.
    #[error("asking for the name of the host TUN: {0}")]
    Host(#[from] TunError),
    /// The uplink does not leave it to the kernel.
    #[error(transparent)]
    Uplink(#[from] XdpError),
    /// It is not diverted.
    #[error(transparent)]
    Divert(#[from] DivertError),
}

/// What is wanted, and what there is.
#[derive(Default)]
pub(super) struct Outside {
    wanted: Option<OutsideSettings>,
    divert: Option<Divert>,
}

impl Workers {
    /// Takes this from the kernel from now on, in the network namespace of the calling thread.
    /// Without settings nothing is taken any more.
    ///
    /// # Errors
    /// [`OutsideError`]; [`Workers::tend_outside`] tries again.
    pub fn set_outside(&self, wanted: Option<OutsideSettings>) -> Result<(), OutsideError> {
        let mut outside = self.outside.lock();
        outside.wanted.clone_from(&wanted);
        let taken = wanted.as_ref().map(|wanted| wanted.mapped.and(wanted.snat_ports));
        self.set_taken_ports(taken.unwrap_or_default())?;
        let Some(wanted) = wanted else {
            outside.divert = None;
            // Also what a dataplane before this one has left.
            return Ok(divert::detach()?);
        };
        self.divert(&mut outside, &wanted)
    }

    /// Attaches again what went away with its interface, or was taken away.
    ///
    /// # Errors
    /// [`OutsideError`]: not yet.
    pub fn tend_outside(&self) -> Result<(), OutsideError> {
        let mut outside = self.outside.lock();
        let Some(wanted) = outside.wanted.clone() else { return Ok(()) };
        if outside.divert.as_ref().is_some_and(Divert::is_in_force) {
            return Ok(());
        }
        outside.divert = None;
        self.divert(&mut outside, &wanted)
    }

    fn divert(&self, outside: &mut Outside, wanted: &OutsideSettings) -> Result<(), OutsideError> {
        let host = self.host_fd().ok_or(OutsideError::NoHost)?;
        let settings = Settings {
            underlay: wanted.underlay,
            subnet: wanted.subnet,
            door: TunDevice::from_fd(host)?.name().to_owned(),
            snat_ports: wanted.snat_ports,
        };
        match &outside.divert {
            Some(divert) if *divert.settings() == settings => {
                divert.set_ports(&wanted.mapped)?;
            }
            _ => {
                let divert = Divert::attach(settings, &wanted.mapped)?;
                tracing::info!(
                    interface = divert.interface(),
                    "traffic of the outside is taken from the kernel"
                );
                outside.divert = Some(divert);
            }
        }
        Ok(())
    }
}
