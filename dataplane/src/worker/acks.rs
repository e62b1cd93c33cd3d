//! Leaving out acknowledgments that a later one in the same batch makes superfluous.
//!
//! A receiver acknowledges every super-packet, and each acknowledgment is carried and processed as
//! a packet. Where several of one connection wait to be sent, the last says all that those before
//! it say (RFC 9293 section 3.10.7.4), so they are left out, as the ACK filter of `sch_cake` does.
//! What carries more than a number stays: data, flags other than ACK, options other than timestamps
//! (a SACK above all), and duplicates, which tell of a loss (RFC 5681 section 3.2).
#![forbid(unsafe_code)]

use smoltcp::wire::Ipv4Packet;

use super::outgoing::Outgoing;
use crate::packet::{Batch, MAX_PACKETS, Packet, Verdict, Via};
use crate::wire::headers::{IPV4_HEADER_LEN, TCP_HEADER_LEN};
use crate::wire::tunnel::TUNNEL_HEADER_LEN;

/// Connections whose last acknowledgment is remembered at a time.
const REMEMBERED: usize = 32;

/// NOP, NOP, and a timestamp of 10 bytes (RFC 7323 appendix A), as all senders write it.
const TIMESTAMP: [u8; 4] = [1, 1, 8, 10];

/// Flags of an acknowledgment: ACK alone.
const ACK: u8 = 0x10;

/// A packet that is nothing but an acknowledgment.
#[derive(Debug, Clone, Copy)]
struct Acknowledgment {
    /// Addresses and ports.
    connection: [u8; 12],
    sequence: u32,
    number: u32,
    index: u16,
}

/// Finds acknowledgments that are superfluous.
#[derive(Debug)]
pub(super) struct AckFilter {
    /// The last acknowledgment of some connections.
    last: [Option<Acknowledgment>; REMEMBERED],
    superseded: [u64; MAX_PACKETS / 64],
}

impl Default for AckFilter {
    fn default() -> Self {
        Self { last: [None; REMEMBERED], superseded: [0; MAX_PACKETS / 64] }
    }
}

impl AckFilter {
    /// Leaves out of the packets that are to be sent those that a later one supersedes. Returns how
    /// many.
    pub(super) fn leave_out(&mut self, batch: &Batch, outgoing: &mut Vec<Outgoing>) -> u64 {
        let mut count = 0;
        self.last = [None; REMEMBERED];
        for packet in &*outgoing {
            if let Some(before) = self.superseded_by(batch, packet.index()) {
                if count == 0 {
                    self.superseded = [0; MAX_PACKETS / 64];
                }
                self.superseded[usize::from(before) / 64] |= 1 << (before % 64);
                count += 1;
            }
        }
        if count > 0 {
            outgoing.retain(|packet| {
                let index = packet.index();
                self.superseded[usize::from(index) / 64] & (1 << (index % 64)) == 0
            });
        }
        count
    }

    /// Which packet before this one it makes superfluous.
    fn superseded_by(&mut self, batch: &Batch, index: u16) -> Option<u16> {
        let packet = batch.packet(usize::from(index));
        let now = acknowledgment(batch, packet, index)?;
        let before = self.last[packet.flow_hash as usize % REMEMBERED].replace(now)?;
        let newer = now.number.wrapping_sub(before.number);
        let supersedes = before.connection == now.connection
            && before.sequence == now.sequence
            && newer != 0
            && newer < 1 << 31;
        supersedes.then_some(before.index)
    }
}

fn acknowledgment(batch: &Batch, packet: &Packet, index: u16) -> Option<Acknowledgment> {
    const PLAIN: usize = IPV4_HEADER_LEN + TCP_HEADER_LEN;
    const STAMPED: usize = PLAIN + 12;
    let front = match packet.verdict {
        Verdict::Forward(Via::Tunnel(_)) => TUNNEL_HEADER_LEN,
        _ => 0,
    };
    let head = batch.bytes(packet.head).get(front..)?;
    let stamped = match head.len() {
        PLAIN => false,
        STAMPED => true,
        _ => return None,
    };
    let (ip, tcp) = head.split_at(IPV4_HEADER_LEN);
    let header = Ipv4Packet::new_unchecked(ip);
    let pure = packet.tail_len == 0
        && ip[0] == 0x45
        && ip[9] == 6
        && usize::from(header.total_len()) == head.len()
        && !header.more_frags()
        && header.frag_offset() == 0
        && tcp[12] >> 4 == (tcp.len() / 4) as u8
        && tcp[13] == ACK
        && (!stamped || tcp[TCP_HEADER_LEN..][..4] == TIMESTAMP);
    let mut connection = [0; 12];
    connection[..8].copy_from_slice(&ip[12..20]);
    connection[8..].copy_from_slice(&tcp[..4]);
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    pure.then(|| Acknowledgment { connection, sequence: word(4), number: word(8), index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::testing::{fill_checksum, place, tcp_packet};
    use crate::packet::Offload;
    use sarcenet_dataplane_api::PortId;
    use std::net::Ipv4Addr;

    const CONTAINER: Via = Via::Container(PortId(1));
    const TUNNEL: Via = Via::Tunnel(Ipv4Addr::new(10, 77, 0, 12));

    /// An acknowledgment of everything before `number`.
    fn ack(number: u32) -> Vec<u8> {
        let mut packet = tcp_packet(&[], 1);
        packet[28..32].copy_from_slice(&number.to_be_bytes());
        fill_checksum(&mut packet);
        packet
    }

    fn changed(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
        packet[at] = byte;
        packet
    }

    /// Which of these packets are left, all leaving by one door.
    fn left_of(packets: &[Vec<u8>], door: Via) -> Vec<u16> {
        let mut batch = Batch::new();
        let mut outgoing = Vec::new();
        for (index, packet) in (0..).zip(packets) {
            let mut bytes = packet.clone();
            if door == TUNNEL {
                bytes.splice(..0, [0; TUNNEL_HEADER_LEN]);
            }
            let head = place(&mut batch, &bytes);
            let at = batch.push(head, Offload::default(), Via::Host).unwrap();
            batch.packet_mut(at).verdict = Verdict::Forward(door);
            outgoing.push(Outgoing::new(door, 0, index));
        }
        let left_out = AckFilter::default().leave_out(&batch, &mut outgoing);
        assert_eq!(outgoing.len() + left_out as usize, packets.len());
        outgoing.iter().map(|packet| packet.index()).collect()
    }

    #[test]
    fn the_last_of_several_says_it_all() {
        for door in [CONTAINER, TUNNEL] {
            assert_eq!(left_of(&[ack(10), ack(20), ack(30)], door), [2]);
            // Numbers wrap around.
            assert_eq!(left_of(&[ack(u32::MAX - 5), ack(4)], door), [1]);
        }
    }

    #[test]
    fn what_says_more_stays() {
        let data = tcp_packet(b"data", 1);
        let fin = changed(ack(20), 33, 0x11);
        let echo = changed(ack(20), 33, 0x50);
        let sack = changed(ack(20), 42, 5);
        let other_port = changed(ack(20), 21, 9);
        let other_sequence = changed(ack(20), 27, 9);
        let fragment = changed(ack(20), 6, 0x20);
        let options = changed(ack(20), 0, 0x46);
        let udp = changed(ack(20), 9, 17);
        for kept in [data, fin, echo, sack, other_port, other_sequence, fragment, options, udp] {
            assert_eq!(left_of(&[kept.clone(), ack(30)], CONTAINER), [0, 1], "{kept:02x?}");
            assert_eq!(left_of(&[ack(10), kept.clone()], CONTAINER), [0, 1], "{kept:02x?}");
        }
        // A duplicate, an older one that was overtaken, and one too short to be read.
        assert_eq!(left_of(&[ack(20), ack(20)], CONTAINER), [0, 1]);
        assert_eq!(left_of(&[ack(20), ack(10)], CONTAINER), [0, 1]);
        assert_eq!(left_of(&[vec![0x45], ack(10)], CONTAINER), [0, 1]);
    }

    #[test]
    fn data_in_between_changes_nothing() {
        let packets = [ack(10), tcp_packet(b"data", 1), ack(20)];
        assert_eq!(left_of(&packets, CONTAINER), [1, 2]);
    }
}
