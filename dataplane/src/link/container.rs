//! The door to a container, of either kind, or to the cell itself.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use sarcenet_dataplane_api::Attach;
use sarcenet_packet_socket::PacketSocketError;

use super::tun::{TunLink, TunLinkError};
use super::veth::{Macs, VethLink};
use super::{LinkCounters, Received, Report, Scratch};
use crate::packet::{Batch, Via};

/// A container's link.
pub enum ContainerLink {
    /// A TUN device in the container.
    Tun(TunLink),
    /// A veth pair, read and written at the cell's end.
    Veth(VethLink),
}

/// Why a descriptor could not become a link.
#[derive(Debug, thiserror::Error)]
pub enum ContainerLinkError {
    /// Of a TUN.
    #[error(transparent)]
    Tun(#[from] TunLinkError),
    /// Of a veth.
    #[error(transparent)]
    Veth(#[from] PacketSocketError),
}

impl ContainerLink {
    /// Makes a link of a descriptor that came with a container attached like this. `mtu` is the
    /// largest packet that is written to it, in bytes. Counts on where a link before it stopped.
    ///
    /// # Errors
    /// [`ContainerLinkError`].
    pub fn new(
        fd: OwnedFd,
        attach: Attach,
        mtu: u16,
        via: Via,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, ContainerLinkError> {
        Ok(match attach {
            Attach::Tun => Self::Tun(TunLink::with_counters(fd, mtu, via, counters)?),
            Attach::Veth { container, gateway } => {
                let macs = Macs { container, gateway };
                Self::Veth(VethLink::new(fd, macs, mtu, via, counters)?)
            }
        })
    }

    /// Largest packet that is written to it, in bytes.
    pub fn mtu(&self) -> u16 {
        match self {
            Self::Tun(link) => link.mtu(),
            Self::Veth(link) => link.mtu(),
        }
    }

    /// What it counted.
    pub fn counters(&self) -> &Arc<LinkCounters> {
        match self {
            Self::Tun(link) => link.counters(),
            Self::Veth(link) => link.counters(),
        }
    }

    /// The mode it really has, or that it is gone.
    pub fn mode(&self) -> String {
        match self {
            Self::Tun(link) => link.mode(),
            Self::Veth(link) => link.mode(),
        }
    }

    /// Reads up to `max` packets into the batch.
    ///
    /// # Errors
    /// The device is gone: nothing will ever come again.
    pub fn receive(
        &self,
        batch: &mut Batch,
        max: usize,
        report: &mut Report,
    ) -> io::Result<Received> {
        match self {
            Self::Tun(link) => link.receive(batch, max, report),
            Self::Veth(link) => link.receive(batch, max, report),
        }
    }

    /// Writes packets of the batch whose verdict is this door, in the given order. What fails is
    /// reported; returns how many were written.
    pub fn transmit(
        &self,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        match self {
            Self::Tun(link) => link.transmit(batch, indices, scratch, report),
            Self::Veth(link) => link.transmit(batch, indices, scratch, report),
        }
    }
}

impl AsFd for ContainerLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tun(link) => link.as_fd(),
            Self::Veth(link) => link.as_fd(),
        }
    }
}
