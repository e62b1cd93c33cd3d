//! Exchanging the uplink while workers carry packets.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use sarcenet_dataplane_api::UplinkMode;

use super::{Order, TakenPorts, UplinkSettings, Workers};
use crate::link::uplink::{Uplink, UplinkError};
use crate::link::xdp::{Tuning, XdpError};

impl Workers {
    /// Opens the uplink, in the network namespace of the calling thread, in place of the one
    /// before; what serves on is kept. Returns the mode that it got.
    ///
    /// # Errors
    /// [`UplinkError`]; the uplink that was there stays.
    pub fn set_uplink(&self, settings: UplinkSettings) -> Result<String, UplinkError> {
        let _changing = self.changing.lock();
        let before = self.links.lock().uplink.clone();
        let Some((uplink, settings_before)) =
            before.clone().filter(|(uplink, _)| uplink.is_in_the_way(&settings))
        else {
            return self.open_uplink(before.map(|(uplink, _)| uplink), settings);
        };
        // The kernel's sockets stay, for what arrives meanwhile and for the next uplink.
        let tunnel = Uplink::Udp(Arc::clone(uplink.tunnel()));
        self.exchange_uplink(tunnel.clone(), settings_before);
        drop((before, uplink));
        self.open_uplink(Some(tunnel.clone()), settings).inspect_err(|_| {
            if let Err(error) = self.open_uplink(Some(tunnel), settings_before) {
                tracing::error!(
                    "the uplink cannot be opened again, and uses the kernel's sockets: {error}"
                );
            }
        })
    }

    fn open_uplink(
        &self,
        before: Option<Uplink>,
        settings: UplinkSettings,
    ) -> Result<String, UplinkError> {
        let tuning = Tuning { workers: self.handles.len(), busy_poll: self.busy_poll };
        let uplink = Uplink::open(settings, tuning, before.as_ref())?;
        if before.is_none_or(|before| !before.is_same(&uplink)) {
            let (peers, taken) = {
                let links = self.links.lock();
                (links.peers.clone(), links.taken.clone())
            };
            uplink.set_taken_ports(&taken)?;
            uplink.set_peers(&peers);
            uplink.settle();
        }
        let mode = uplink.mode();
        self.exchange_uplink(uplink, settings);
        Ok(mode)
    }

    /// Gives all workers this uplink in place of the one before.
    fn exchange_uplink(&self, uplink: Uplink, settings: UplinkSettings) {
        let mut links = self.links.lock();
        if links.uplink.as_ref().is_none_or(|(before, _)| !before.is_same(&uplink)) {
            self.tell(|_| Order::Uplink(uplink.clone()));
        }
        links.uplink = Some((uplink, settings));
    }

    /// Whether there is an uplink in the mode that was asked for last, and its interface is as it
    /// was.
    pub fn has_uplink(&self) -> bool {
        let uplink = self.links.lock().uplink.clone();
        uplink.is_some_and(|(uplink, settings)| {
            let stopgap = settings.mode == UplinkMode::Xdp && matches!(uplink, Uplink::Udp(_));
            !stopgap && !uplink.is_spent()
        })
    }

    /// Takes these ports at the cell's address from the kernel, and gives all others back: now if
    /// the uplink is one past the kernel, and whenever it becomes one.
    ///
    /// # Errors
    /// [`XdpError::Map`]; the ports are taken when the uplink is opened anew.
    pub fn set_taken_ports(&self, taken: TakenPorts) -> Result<(), XdpError> {
        let _changing = self.changing.lock();
        let mut links = self.links.lock();
        let set = links.uplink.as_ref().map(|(uplink, _)| uplink.set_taken_ports(&taken));
        links.taken = taken;
        set.unwrap_or(Ok(()))
    }

    /// Says where all other cells are, so that the uplink can find the ways to them, and try how
    /// packets get there best.
    pub fn set_peers(&self, peers: Vec<Ipv4Addr>) {
        let _changing = self.changing.lock();
        let mut links = self.links.lock();
        if let Some((uplink, _)) = &links.uplink {
            uplink.set_peers(&peers);
        }
        links.peers = peers;
    }
}
