//! Last stage: a decided packet is made ready for its door.

use sarcenet_dataplane_api::{DropReason, TraceStep};
use smoltcp::wire::Ipv4Packet;

use super::parse::Headers;
use super::{Out, Run, fragment};
use crate::packet::{Batch, Segmentation, Verdict, Via};
use crate::wire::headers::decrement_ttl;
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

impl Run<'_> {
    /// Time to live, size, tunnel header; then the verdict. Nothing is changed when it fails, so
    /// that an answer can quote the packet as it came.
    #[inline]
    pub(super) fn forward(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &Headers,
        out: Out,
    ) -> Result<(), DropReason> {
        // The cell is a router between containers and peers, but an end for its own packets.
        let is_routed = out.to != Via::Host && batch.packet(i).from != Via::Host;
        if is_routed && Ipv4Packet::new_unchecked(batch.head(i)).hop_limit() <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let too_big = headers.largest > self.cell.mtu && out.to != Via::Host;
        if too_big && !self.may_fragment(batch, i) {
            return Err(DropReason::TooBig);
        }
        if let Via::Tunnel(underlay) = out.to
            && self.topology.peer_at(underlay).is_none()
        {
            return Err(DropReason::NoRoute);
        }
        if is_routed {
            decrement_ttl(batch.packet_and_head(i).1);
        }
        let last = if too_big { self.fragment(batch, i)? } else { None };
        self.send(batch, i, out);
        if let Some(last) = last {
            for further in last {
                self.send(batch, further, out);
            }
        }
        Ok(())
    }

    /// Puts the tunnel header on packet `i`, if that is where it goes, and gives the verdict.
    #[inline]
    pub(super) fn send(&mut self, batch: &mut Batch, i: usize, out: Out) {
        if let Via::Tunnel(underlay) = out.to
            && let Some(peer) = self.topology.peer_at(underlay)
        {
            peer.template.write(out.tag, batch.grow_front(i, TUNNEL_HEADER_LEN));
            self.trace.step(batch.packet(i).trace, || TraceStep::Encapsulated {
                peer: underlay,
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

    /// Cuts packet `i` into fragments that fit; `i` becomes the first of them.
    #[cold]
    fn fragment(
        &mut self,
        batch: &mut Batch,
        i: usize,
    ) -> Result<Option<std::ops::Range<usize>>, DropReason> {
        fragment::cut(batch, i, self.cell.mtu).map(Some).ok_or(DropReason::NoBuffer)
    }
}
