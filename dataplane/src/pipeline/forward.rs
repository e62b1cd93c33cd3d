//! Last stage: a decided packet is made ready for its door.

use std::net::SocketAddrV4;

use sarcenet_dataplane_api::{DropReason, PortId, TraceStep};
use smoltcp::wire::Ipv4Packet;

use super::parse::{Headers, Kind};
use super::{Out, Run, fragment};
use crate::nat::{self, Side, Translation};
use crate::packet::{Batch, Segmentation, Verdict, Via};
use crate::topology::PeerEntry;
use crate::wire::headers::decrement_ttl;
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

impl<'g> Run<'g> {
    /// Time to live, size, tunnel header; then the verdict. A packet that fails here for a reason
    /// that is answered is still as it came, so that the answer can quote it.
    #[inline]
    pub(super) fn forward(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &Headers,
        out: Out,
    ) -> Result<(), DropReason> {
        // The cell is a router between containers, peers and the outside, but an end for its own
        // packets. To the outside the kernel is the one that counts the hop.
        let from = batch.packet(i).from;
        let translated = out.translation.is_some();
        let is_routed = (from != Via::Host && out.to != Via::Host) || translated;
        if is_routed && Ipv4Packet::new_unchecked(batch.head(i)).hop_limit() <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let too_big = headers.largest > self.cell.mtu && out.to != Via::Host;
        if too_big && !self.may_fragment(batch, i) {
            return Err(DropReason::TooBig);
        }
        let peer = self.peer_behind(out.to)?;
        let departure = match out.to {
            Via::Container(port) => self.departure(port, headers)?,
            Via::Host | Via::Tunnel(_) => self.now_ns,
        };
        if let Some(translation) = &out.translation {
            self.translate(batch, i, headers.kind, *translation)?;
        }
        if is_routed && out.to != Via::Host {
            decrement_ttl(batch.packet_and_head(i).1);
        }
        if too_big {
            let further = fragment::cut(batch, i, self.cell.mtu).ok_or(DropReason::NoBuffer)?;
            for fragment in further {
                batch.packet_mut(fragment).not_before = departure;
                self.send(batch, fragment, out, peer);
            }
        }
        batch.packet_mut(i).not_before = departure;
        self.send(batch, i, out, peer);
        Ok(())
    }

    /// Writes into the headers of packet `i` what its conversation is known by on the other side.
    #[inline]
    fn translate(
        &mut self,
        batch: &mut Batch,
        i: usize,
        kind: Kind,
        translation: Translation,
    ) -> Result<(), DropReason> {
        let (packet, head) = batch.packet_and_head(i);
        let written = match kind {
            Kind::IcmpError => nat::rewrite_error(head, translation),
            _ => nat::rewrite(head, packet.offload.checksum, translation),
        };
        self.trace.step(packet.trace, || {
            let end = SocketAddrV4::new(translation.address, translation.port);
            let (source, destination) = match translation.side {
                Side::Source => (Some(end), None),
                Side::Destination => (None, Some(end)),
            };
            TraceStep::Translated { source, destination }
        });
        // Only an error whose quotation ends too early; everything else has been parsed.
        written.map_err(|_| DropReason::Malformed)
    }

    /// When a packet may leave for a container, in nanoseconds since start.
    #[inline]
    fn departure(&self, port: PortId, headers: &Headers) -> Result<u64, DropReason> {
        let container = self.topology.container(port);
        let Some(bucket) = container.and_then(|container| container.grants.receive.as_ref()) else {
            return Ok(self.now_ns);
        };
        let bits = u64::from(headers.total_len) * 8;
        bucket.book(self.now_ns, bits).ok_or(DropReason::RateLimit)
    }

    /// The peer that a door leads to; none for other doors than the tunnel.
    #[inline]
    pub(super) fn peer_behind(&self, to: Via) -> Result<Option<&'g PeerEntry>, DropReason> {
        match to {
            Via::Tunnel(underlay) => {
                self.topology.peer_at(underlay).map(Some).ok_or(DropReason::NoRoute)
            }
            Via::Host | Via::Container(_) => Ok(None),
        }
    }

    /// Puts the tunnel header on packet `i`, if it goes to a peer, and gives the verdict.
    #[inline]
    pub(super) fn send(&mut self, batch: &mut Batch, i: usize, out: Out, peer: Option<&PeerEntry>) {
        if let Some(peer) = peer {
            peer.template.write(out.tag, batch.grow_front(i, TUNNEL_HEADER_LEN));
            self.trace.step(batch.packet(i).trace, || TraceStep::Encapsulated {
                peer: peer.underlay,
                tag: out.tag,
            });
        }
        let packet = batch.packet_mut(i);
        packet.verdict = Verdict::Forward(out.to);
        self.trace.step(packet.trace, || TraceStep::Transmitted { to: out.to.into() });
    }

    /// Whether packet `i` may be cut into IP fragments: an ordinary packet without DF.
    #[cold]
    fn may_fragment(&self, batch: &Batch, i: usize) -> bool {
        let packet = batch.packet(i);
        let in_one_piece = packet.len() == packet.head.len as usize;
        packet.offload.segmentation == Segmentation::None
            && in_one_piece
            && !Ipv4Packet::new_unchecked(batch.head(i)).dont_frag()
            && fragment::pieces(batch.head(i), self.cell.mtu).is_some()
    }
}
