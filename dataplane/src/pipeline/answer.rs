//! ICMP errors (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 4.3): what senders are told
//! about packets that end here.

use std::net::Ipv4Addr;

use sarcenet_dataplane_api::{DropReason, TraceStep};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, IpProtocol, Ipv4Packet, Ipv4Repr};

use super::parse::{Headers, ICMP_HEADER_LEN, Kind};
use super::{Out, Run};
use crate::packet::{Batch, Checksum, Offload, Piece, Via};
use crate::wire::headers::IPV4_HEADER_LEN;

/// Longest answer, from its IPv4 header on, in bytes (RFC 1812 section 4.3.2.3).
const MAX_LEN: usize = 576;

/// Answers a worker makes per second, and at once after a quiet time.
const PER_SECOND: u64 = 10_000;
const BURST: u64 = 1_000;

const NS_PER_TOKEN: u64 = 1_000_000_000 / PER_SECOND;

/// Time to live of answers, as the kernel's default.
const TTL: u8 = 64;

/// Differentiated services code point of network control (CS6), which ICMP errors carry
/// (RFC 1812 section 4.3.2.5).
const NETWORK_CONTROL: u8 = 48;

/// What a packet that ended for some reason is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    message: Icmpv4Message,
    code: u8,
    /// Next-hop MTU (RFC 1191), 0 for others.
    mtu: u16,
}

/// The answer due for `reason`, if any. Each of these is found only after the source was seen to
/// belong where the packet came from.
fn due(reason: DropReason, mtu: u16) -> Option<Answer> {
    let (message, code, mtu) = match reason {
        DropReason::PolicyDenied
        | DropReason::PolicyRevoked
        | DropReason::EgressDenied
        | DropReason::SnatExhausted
        | DropReason::ConnectionLimit
        | DropReason::HostDenied => (Icmpv4Message::DstUnreachable, 3, 0),
        DropReason::NoRoute => (Icmpv4Message::DstUnreachable, 1, 0),
        DropReason::TooBig => (Icmpv4Message::DstUnreachable, 4, mtu),
        DropReason::TtlExceeded => (Icmpv4Message::TimeExceeded, 0, 0),
        _ => return None,
    };
    Some(Answer { message, code, mtu })
}

/// How many answers a worker may still make: a token bucket.
#[derive(Debug, Default)]
pub(super) struct AnswerBudget {
    /// Time up to which tokens have been used, in nanoseconds since start.
    used_up_to: u64,
}

impl AnswerBudget {
    fn take(&mut self, now_ns: u64) -> bool {
        // Time 0 is a full bucket.
        let now = now_ns + BURST * NS_PER_TOKEN;
        let from = self.used_up_to.max(now - BURST * NS_PER_TOKEN);
        if from + NS_PER_TOKEN > now {
            return false;
        }
        self.used_up_to = from + NS_PER_TOKEN;
        true
    }
}

impl Run<'_> {
    /// Answers packet `i`, which ended for `reason`, when an answer is due. It goes back by the
    /// door the packet came from.
    #[inline]
    pub(super) fn answer(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &Headers,
        reason: DropReason,
    ) {
        if let Some(answer) = due(reason, self.cell.mtu) {
            self.send_answer(batch, i, headers, answer);
        }
    }

    #[cold]
    fn send_answer(&mut self, batch: &mut Batch, i: usize, headers: &Headers, answer: Answer) {
        let about_error = matches!(
            headers.kind,
            Kind::IcmpError | Kind::IcmpOther { error: true } | Kind::LaterFragment
        );
        if about_error {
            return;
        }
        if !self.budget.take(self.now_ns) || !self.write_answer(batch, i, headers, answer) {
            self.counters.suppressed(1);
            return;
        }
        self.counters.answered(1);
        self.trace.step(batch.packet(i).trace, || TraceStep::Answered {
            icmp_type: u8::from(answer.message),
            icmp_code: answer.code,
        });
    }

    /// Appends the answer to the batch. False when there is no room.
    fn write_answer(
        &mut self,
        batch: &mut Batch,
        i: usize,
        headers: &Headers,
        answer: Answer,
    ) -> bool {
        let to = batch.packet(i).from;
        let Ok(peer) = self.peer_behind(to) else { return false };
        let Some(buffer) = batch.take_buffer() else { return false };
        let mut quote = [0; MAX_LEN - IPV4_HEADER_LEN - ICMP_HEADER_LEN];
        let head = batch.head(i);
        let quote_len = head.len().min(quote.len());
        quote[..quote_len].copy_from_slice(&head[..quote_len]);

        let ip = Ipv4Repr {
            src_addr: self.own_address_towards(headers.key.source),
            dst_addr: headers.key.source,
            next_header: IpProtocol::Icmp,
            payload_len: ICMP_HEADER_LEN + quote_len,
            hop_limit: TTL,
        };
        let len = ip.buffer_len() + ip.payload_len;
        let piece = Piece { len: len as u32, ..buffer };
        let bytes = batch.bytes_mut(piece);
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.emit(&mut packet, &ChecksumCapabilities::ignored());
        packet.set_dscp(NETWORK_CONTROL);
        packet.fill_checksum();
        let icmp_bytes = packet.payload_mut();
        icmp_bytes[..ICMP_HEADER_LEN].fill(0);
        icmp_bytes[6..ICMP_HEADER_LEN].copy_from_slice(&answer.mtu.to_be_bytes());
        icmp_bytes[ICMP_HEADER_LEN..].copy_from_slice(&quote[..quote_len]);
        let mut icmp = Icmpv4Packet::new_unchecked(icmp_bytes);
        icmp.set_msg_type(answer.message);
        icmp.set_msg_code(answer.code);
        icmp.fill_checksum();

        let offload = Offload { checksum: Checksum::Verified, ..Offload::default() };
        let Some(index) = batch.push(piece, offload, Via::Host) else { return false };
        batch.packet_mut(index).flow_hash = batch.packet(i).flow_hash;
        self.send(batch, index, Out { to, tag: 0, translation: None }, peer);
        true
    }

    /// The address under which this cell is known there.
    fn own_address_towards(&self, destination: Ipv4Addr) -> Ipv4Addr {
        if self.cell.overlay.contains(&destination) {
            self.cell.subnet.network()
        } else {
            self.cell.underlay
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut budget = AnswerBudget::default();
        let mut taken = |now_ns| std::iter::from_fn(|| budget.take(now_ns).then_some(())).count();
        assert_eq!(taken(0), 1_000);
        assert_eq!(taken(0), 0);
        assert_eq!(taken(NS_PER_TOKEN - 1), 0);
        assert_eq!(taken(NS_PER_TOKEN), 1);
        assert_eq!(taken(51 * NS_PER_TOKEN), 50);
        assert_eq!(taken(1_000_000_000_000), 1_000);
    }

    #[test]
    fn reasons_that_come_before_the_source_check_are_not_answered() {
        for reason in [
            DropReason::SpoofedSource,
            DropReason::ForeignSource,
            DropReason::UnknownPeer,
            DropReason::Malformed,
            DropReason::NotUnicast,
            DropReason::Untracked,
        ] {
            assert_eq!(due(reason, 1450), None);
        }
    }
}
