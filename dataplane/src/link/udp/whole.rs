//! Sending super-packets whole, through the TAP.
#![forbid(unsafe_code)]

use std::iter::{self, Peekable};
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use sarcenet_dataplane_api::DropReason;

use super::UdpTunnel;
use super::tap::{self, Tap};
use super::transmit::failure;
use crate::link::group::Group;
use crate::link::{Report, Scratch};
use crate::packet::{Batch, Packet, Verdict, Via};

impl UdpTunnel {
    /// The device that takes this packet whole, if there is one.
    pub(super) fn tap_for(&self, batch: &Batch, index: u16) -> Option<&Tap> {
        let tap = self.tap.get().filter(|_| self.whole.load(Relaxed))?;
        let packet = batch.packet(usize::from(index));
        let takes = packet.offload.segmentation.size().is_some() && packet.len() <= tap::MAX_LEN;
        takes.then_some(tap)
    }

    /// Sends super-packets as they are, as many as come one after the other.
    pub(super) fn transmit_whole(
        &self,
        tap: &Tap,
        batch: &Batch,
        indices: &mut Peekable<impl Iterator<Item = u16>>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        let mut group = Group::default();
        while let Some(&index) = indices.peek()
            && self.tap_for(batch, index).is_some()
            && group.add(batch, index, |packet| self.outer_headers(tap, batch, packet))
        {
            indices.next();
        }
        let (mut packets, mut bytes, mut in_trains) = (0, 0, 0);
        group.write(tap.as_fd(), batch, scratch, |index, result, scratch| match result {
            Ok(()) => {
                packets += 1;
                bytes += batch.packet(usize::from(index)).len() as u64;
            }
            Err(errno) if failure(errno) == DropReason::LinkFull => {
                report.dropped(DropReason::LinkFull, 1);
            }
            Err(errno) => {
                if self.whole.swap(false, Relaxed) {
                    tracing::warn!(
                        "{} takes no tunnel super-packets any more: {errno}; they leave as trains \
                         of segments from now on",
                        tap.name()
                    );
                }
                in_trains += self.transmit_trains(batch, iter::once(index), scratch, report);
            }
        });
        self.counters.transmitted(packets, bytes, 0);
        packets as usize + in_trains
    }

    fn outer_headers(&self, tap: &Tap, batch: &Batch, packet: &Packet) -> [u8; tap::HEADER_LEN] {
        let Verdict::Forward(Via::Tunnel(peer)) = packet.verdict else {
            return [0; tap::HEADER_LEN];
        };
        let port = self.source_ports[Self::sender_of(packet.flow_hash)];
        let from = SocketAddrV4::new(*self.local.ip(), port);
        let to = SocketAddrV4::new(peer, self.local.port());
        tap.header(packet.offload, batch.bytes(packet.head), packet.len(), from, to)
    }
}
