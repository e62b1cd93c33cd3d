//! The door to other cells, of either kind, and which kind it is to be.
#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use sarcenet_dataplane_api::UplinkMode;

use super::TakenPorts;
use super::udp::{TapError, UdpTunnel, UdpTunnelError};
use super::xdp::{Demand, Tuning, XdpError, XdpUplink};
use super::{LinkCounters, Received, Report, Scratch};
use crate::packet::Batch;

/// Longest wait for the MACs of next hops. An answer on one network takes less than a millisecond.
const SETTLING: Duration = Duration::from_millis(50);

/// Where the uplink is and how it shall work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkSettings {
    /// Address of the cell on the underlay.
    pub underlay: Ipv4Addr,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Largest inner packet, in bytes.
    pub mtu: u16,
    /// How packets shall travel.
    pub mode: UplinkMode,
}

impl UplinkSettings {
    fn local(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.underlay, self.port)
    }
}

/// A cell's uplink. Cheap to clone; all clones are the same door.
#[derive(Clone)]
pub enum Uplink {
    /// Sockets of the kernel.
    Udp(Arc<UdpTunnel>),
    /// AF_XDP sockets at the card.
    Xdp(Arc<XdpUplink>),
}

/// Why an uplink could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Through the kernel's sockets.
    #[error(transparent)]
    Udp(#[from] UdpTunnelError),
    /// At the card.
    #[error("mode xdp: {0}")]
    Xdp(#[from] XdpError),
}

impl From<TapError> for UplinkError {
    fn from(error: TapError) -> Self {
        Self::Udp(error.into())
    }
}

impl Uplink {
    /// Opens what `settings` ask for, in the network namespace of the calling thread. `before` is
    /// what is open now; what of it serves on is taken over, and may be all of it.
    ///
    /// With [`UplinkMode::Auto`] it is AF_XDP where the card gives zero-copy, and the kernel's
    /// sockets elsewhere.
    ///
    /// # Errors
    /// [`UplinkError`].
    pub fn open(
        settings: UplinkSettings,
        tuning: Tuning,
        before: Option<&Self>,
    ) -> Result<Self, UplinkError> {
        let UplinkSettings { underlay, port, mtu, mode } = settings;
        if let Some(before) = before.filter(|before| before.serves(&settings)) {
            before.set_mtu(mtu)?;
            return Ok(before.clone());
        }
        let tunnel = match before.map(Self::tunnel) {
            Some(tunnel) if tunnel.local() == settings.local() => Arc::clone(tunnel),
            _ => Arc::new(UdpTunnel::bind(underlay, port, mtu)?),
        };
        let demand = match mode {
            UplinkMode::Xdp => Some(Demand::Best),
            UplinkMode::Auto => Some(Demand::ZeroCopy),
            UplinkMode::Udp | UplinkMode::TunnelGso => None,
        };
        match demand.map(|demand| XdpUplink::open(Arc::clone(&tunnel), mtu, demand, tuning)) {
            Some(Ok(uplink)) => {
                tunnel.set_mode(UplinkMode::Xdp)?;
                tunnel.set_mtu(mtu);
                return Ok(Self::Xdp(Arc::new(uplink)));
            }
            Some(Err(error)) if mode == UplinkMode::Xdp => return Err(error.into()),
            Some(Err(error)) => tracing::info!("the uplink uses the kernel's sockets: {error}"),
            None => {}
        }
        tunnel.set_mode(mode)?;
        tunnel.set_mtu(mtu);
        Ok(Self::Udp(tunnel))
    }

    /// The kernel's sockets of the tunnel, which every uplink has.
    pub fn tunnel(&self) -> &Arc<UdpTunnel> {
        match self {
            Self::Udp(tunnel) => tunnel,
            Self::Xdp(uplink) => uplink.kernel(),
        }
    }

    /// Whether it is an AF_XDP uplink that is just what `settings` ask for, the MTU aside.
    fn serves(&self, settings: &UplinkSettings) -> bool {
        match self {
            // Its mode is set anew.
            Self::Udp(_) => false,
            Self::Xdp(uplink) => {
                let enough = match settings.mode {
                    UplinkMode::Xdp => true,
                    UplinkMode::Auto => uplink.is_zero_copy(),
                    UplinkMode::Udp | UplinkMode::TunnelGso => false,
                };
                enough && !self.is_spent() && uplink.local() == settings.local()
            }
        }
    }

    /// Whether opening these settings takes an interface that this uplink must let go of first.
    pub fn is_in_the_way(&self, settings: &UplinkSettings) -> bool {
        let wants_xdp = matches!(settings.mode, UplinkMode::Xdp | UplinkMode::Auto);
        matches!(self, Self::Xdp(_)) && wants_xdp && !self.is_gone() && !self.serves(settings)
    }

    /// Whether both are the same door.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Udp(one), Self::Udp(other)) => Arc::ptr_eq(one, other),
            (Self::Xdp(one), Self::Xdp(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Says where all other cells are, for it to find the way there, or to try how packets get
    /// there best.
    pub fn set_peers(&self, peers: &[Ipv4Addr]) {
        match self {
            Self::Udp(tunnel) => {
                if let Some(&peer) = peers.first() {
                    tunnel.probe(peer);
                }
            }
            Self::Xdp(uplink) => uplink.follow(peers.iter().copied()),
        }
    }

    /// Waits for a moment until it is known how peers are reached, so that taking it in the place of
    /// another one loses as little as possible. What arrives meanwhile waits in the receive rings.
    pub fn settle(&self) {
        if let Self::Xdp(uplink) = self {
            uplink.wait_for_ways(SETTLING);
        }
    }

    /// Largest inner packet, in bytes.
    pub fn mtu(&self) -> u16 {
        match self {
            Self::Udp(tunnel) => tunnel.mtu(),
            Self::Xdp(uplink) => uplink.mtu(),
        }
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), XdpError> {
        match self {
            Self::Udp(tunnel) => tunnel.set_mtu(mtu),
            Self::Xdp(uplink) => uplink.set_mtu(mtu)?,
        }
        Ok(())
    }

    /// Takes these ports at the cell's address from the kernel, and gives all others back, where
    /// packets come past the kernel. What a socket of the kernel receives is the tunnel's alone.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn set_taken_ports(&self, taken: &TakenPorts) -> Result<(), XdpError> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Xdp(uplink) => uplink.set_taken_ports(taken),
        }
    }

    /// What it counted.
    pub fn counters(&self) -> &LinkCounters {
        match self {
            Self::Udp(tunnel) => tunnel.counters(),
            Self::Xdp(uplink) => uplink.counters(),
        }
    }

    /// The mode it really has, or that it is gone.
    pub fn mode(&self) -> String {
        match self {
            Self::Udp(tunnel) => tunnel.mode(),
            Self::Xdp(uplink) => uplink.mode(),
        }
    }

    /// Whether it will never carry anything again. Sockets of the kernel outlive their interface
    /// and work again when the address is back.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Udp(_) => false,
            Self::Xdp(uplink) => uplink.is_gone(),
        }
    }

    /// Whether it should be opened anew: its interface is gone, or has other queues by now.
    pub fn is_spent(&self) -> bool {
        match self {
            Self::Udp(_) => false,
            Self::Xdp(uplink) => uplink.is_gone() || uplink.is_outgrown(),
        }
    }

    /// The descriptors to wait for, one for each receive queue, in their order; the last is the
    /// kernel's socket.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let (udp, xdp) = match self {
            Self::Udp(tunnel) => (Some(tunnel.as_fd()), None),
            Self::Xdp(uplink) => (None, Some(uplink.fds())),
        };
        udp.into_iter().chain(xdp.into_iter().flatten())
    }

    /// Reads a receive queue into at most `max` buffers of the batch.
    ///
    /// # Errors
    /// The interface is gone: nothing will ever come again.
    pub fn receive(
        &self,
        queue: usize,
        batch: &mut Batch,
        max: usize,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> io::Result<Received> {
        match self {
            Self::Udp(tunnel) => Ok(tunnel.receive(batch, max, scratch, report)),
            Self::Xdp(uplink) => uplink.receive(queue, batch, max, scratch, report),
        }
    }

    /// Sends packets of the batch whose verdict is the tunnel, each beginning with its tunnel
    /// header, in the given order, for the worker of this number. What fails is reported; returns
    /// how many were sent.
    pub fn transmit(
        &self,
        worker: usize,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        match self {
            Self::Udp(tunnel) => tunnel.transmit(batch, indices, scratch, report),
            Self::Xdp(uplink) => uplink.transmit(worker, batch, indices, scratch, report),
        }
    }
}
