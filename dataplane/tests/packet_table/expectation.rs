//! What a row expects, compared with what a cell did.

use std::fmt::Write;

use sarcenet_dataplane::packet::{Offload, Via};
use sarcenet_dataplane::pipeline::Totals;
use sarcenet_dataplane_api::Drops;
use smoltcp::wire::{Icmpv4Packet, Ipv4Packet};

use crate::table::packet::{Packet, Tunnel, encapsulated};
use crate::table::world::{CELL, End, HOST, WORLD_MAC, World, peer_mac};
use crate::table::{Answer, Outcome, Row, Sent, Step};

/// Something that rows can be played on.
pub(crate) trait Cell {
    /// Puts a state in force.
    fn put_in_force(&mut self, world: &World);

    /// Lets time pass.
    fn wait(&mut self, time: std::time::Duration);

    /// Sends a packet and compares what becomes of it.
    fn send(&mut self, sent: &Sent) -> Result<(), String>;
}

/// Plays a row; an error tells what was expected and what was seen.
pub(crate) fn play(row: &Row, cell: &mut impl Cell) -> Result<(), String> {
    let mut world = row.world.clone();
    cell.put_in_force(&world);
    for (number, step) in row.steps.iter().enumerate() {
        match step {
            Step::Change(change) => {
                change(&mut world);
                cell.put_in_force(&world);
            }
            Step::Wait(time) => cell.wait(*time),
            Step::Send(sent) => cell
                .send(sent)
                .map_err(|error| format!("{:?}, step {}: {error}", row.name, number + 1))?,
        }
    }
    Ok(())
}

/// A packet that left.
pub(crate) struct Left {
    pub(crate) door: Via,
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
}

/// What is to be counted after a packet: exactly one outcome.
pub(crate) fn expected_totals(sent: &Sent, before: &Totals) -> Totals {
    let mut expected = before.clone();
    match sent.outcome {
        Outcome::Forward(..) => expected.transmitted += 1,
        Outcome::Drop(reason) => {
            match expected.drops.iter_mut().find(|drops| drops.reason == reason) {
                Some(drops) => drops.packets += 1,
                None => expected.drops.push(Drops { reason, packets: 1 }),
            }
            expected.drops.sort_by_key(|drops| drops.reason);
        }
    }
    expected.answered += u64::from(sent.answer.is_some());
    expected
}

/// The answer goes back by the packet's door, from the cell to the packet's sender, and quotes
/// the packet as it came.
pub(crate) fn check_answer(packet: &Packet, answer: Answer, left: &Left) -> Result<(), String> {
    if left.door != packet.door {
        return Err(format!("the answer leaves by {:?}", left.door));
    }
    let ip_bytes = match packet.door {
        Via::Tunnel(_) => {
            let sender = End { door: packet.door, address: packet.source, tag: 0 };
            let header = encapsulated(&[], Tunnel::tagged(0, peer_mac(sender)), WORLD_MAC);
            left.bytes.strip_prefix(&header[..]).ok_or("the answer has another tunnel header")?
        }
        Via::Host | Via::Container(_) => &left.bytes[..],
    };
    let ip = Ipv4Packet::new_checked(ip_bytes).map_err(|_| "the answer is no IPv4 packet")?;
    if !ip.verify_checksum() || usize::from(ip.total_len()) != ip_bytes.len() {
        return Err("the answer's header is wrong".into());
    }
    let of_the_overlay = packet.source.octets()[..2] == HOST.address.octets()[..2];
    let cell = if of_the_overlay { HOST } else { CELL };
    if (ip.src_addr(), ip.dst_addr()) != (cell.address, packet.source) {
        return Err(format!("the answer goes from {} to {}", ip.src_addr(), ip.dst_addr()));
    }
    let icmp = Icmpv4Packet::new_checked(ip.payload()).map_err(|_| "the answer is no ICMP")?;
    if !icmp.verify_checksum() {
        return Err("the answer's ICMP checksum is wrong".into());
    }
    let bytes = ip.payload();
    let mtu = u16::from_be_bytes([bytes[6], bytes[7]]);
    let seen = Answer(bytes[0], bytes[1], mtu);
    if seen != answer {
        return Err(format!("answered {seen:?} instead of {answer:?}"));
    }
    let (original, quote) = (packet.ip_bytes(), &bytes[8..]);
    if quote.len() != original.len().min(576 - 28) || !original.starts_with(quote) {
        return Err(format!("the answer quotes {quote:02x?}"));
    }
    Ok(())
}

/// How packet `n` differs from what was expected.
pub(crate) fn difference(n: usize, expected: &[u8], seen: &[u8]) -> String {
    let at = expected.iter().zip(seen).position(|(a, b)| a != b);
    let mut text = format!(
        "packet {n} leaves with {} bytes instead of {}, the first difference at {at:?}",
        seen.len(),
        expected.len()
    );
    let show = |bytes: &[u8]| format!("{:02x?}", &bytes[..bytes.len().min(80)]);
    let _ = write!(text, "\n  expected {}\n  seen     {}", show(expected), show(seen));
    text
}
