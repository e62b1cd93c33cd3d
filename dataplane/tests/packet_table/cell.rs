//! A cell that is nothing but a pipeline.

use std::fmt::Write;
use std::sync::Arc;

use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::packet::{Batch, Piece, Verdict, Via};
use sarcenet_dataplane::pipeline::{Counters, Pipeline, Shared, Totals};
use smoltcp::wire::{Icmpv4Packet, Ipv4Packet};

use crate::table::packet::{Packet, Tunnel, encapsulated};
use crate::table::world::{HOST, WORLD_MAC, World, peer_mac};
use crate::table::{Answer, Outcome, Row, Sent, Step};

/// A pipeline, its batch, and a clock.
pub(crate) struct TestCell {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    pipeline: Pipeline,
    batch: Batch,
    world: World,
    generation: u32,
    now_ns: u64,
}

/// A packet that left.
struct Left {
    door: Via,
    bytes: Vec<u8>,
    offload: sarcenet_dataplane::packet::Offload,
}

impl TestCell {
    /// A cell with room for `flows` flows.
    pub(crate) fn new(world: World, flows: usize) -> Self {
        let shared = Arc::new(Shared::new(FlowTable::new(flows).expect("a small flow table")));
        let counters = Arc::new(Counters::new());
        let pipeline = Pipeline::new(Arc::clone(&shared), 0, Arc::clone(&counters));
        let mut cell = Self {
            shared,
            counters,
            pipeline,
            batch: Batch::new(),
            world,
            generation: 0,
            now_ns: 1_000_000_000,
        };
        cell.publish();
        cell
    }

    fn publish(&mut self) {
        self.generation += 1;
        self.shared.policy.replace(&self.world.rules);
        self.shared.publish(self.world.topology(self.generation));
    }

    /// Plays a row; an error tells what was expected and what was seen.
    pub(crate) fn play(row: &Row) -> Result<(), String> {
        let mut cell = Self::new(row.world.clone(), 1024);
        for (number, step) in row.steps.iter().enumerate() {
            match step {
                Step::Change(change) => {
                    change(&mut cell.world);
                    cell.publish();
                }
                Step::Wait(time) => cell.now_ns += time.as_nanos() as u64,
                Step::Send(sent) => cell
                    .send(sent)
                    .map_err(|error| format!("{:?}, step {}: {error}", row.name, number + 1))?,
            }
        }
        Ok(())
    }

    /// What the cell shares with its observers.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// What was counted.
    pub(crate) fn totals(&self) -> Totals {
        Totals::of([&*self.counters])
    }

    /// Puts packets into one batch, as links would, and carries it. Returns their verdicts.
    pub(crate) fn carry<'a>(
        &mut self,
        packets: impl IntoIterator<Item = &'a Packet>,
    ) -> Vec<Verdict> {
        self.batch.clear();
        self.now_ns += 1_000_000;
        for packet in packets {
            let bytes = packet.bytes();
            let buffer = self.batch.take_buffer().expect("not more packets than buffers");
            let piece = Piece { len: bytes.len() as u32, ..buffer };
            self.batch.bytes_mut(piece).copy_from_slice(&bytes);
            let room = self.batch.push(piece, packet.offload, packet.door);
            room.expect("not more packets than fit");
        }
        let received = self.batch.len();
        self.pipeline.process(&mut self.batch, self.now_ns);
        self.batch.packets()[..received].iter().map(|packet| packet.verdict).collect()
    }

    /// The packets of the last batch that left.
    fn left(&self) -> Vec<Left> {
        (0..self.batch.len())
            .filter_map(|i| match self.batch.packet(i).verdict {
                Verdict::Forward(door) => Some(Left {
                    door,
                    bytes: self.batch.copy_out(i),
                    offload: self.batch.packet(i).offload,
                }),
                Verdict::Drop(_) | Verdict::Pending => None,
            })
            .collect()
    }

    fn send(&mut self, sent: &Sent) -> Result<(), String> {
        let before = self.totals();
        let verdict = self.carry([&sent.packet])[0];
        let left = self.left();
        let (expected, forwarded) = match &sent.outcome {
            Outcome::Forward(door, packets) => {
                let packets = packets.iter().map(|packet| (*door, packet)).collect();
                (Verdict::Forward(*door), packets)
            }
            Outcome::Drop(reason) => (Verdict::Drop(*reason), Vec::new()),
        };
        if verdict != expected {
            return Err(format!("expected {expected:?}, got {verdict:?}"));
        }
        let answers = usize::from(sent.answer.is_some());
        if left.len() != forwarded.len() + answers {
            return Err(format!(
                "expected {} packets and {answers} answers to leave, {} did",
                forwarded.len(),
                left.len()
            ));
        }
        for (n, ((door, expected), left)) in forwarded.iter().zip(&left).enumerate() {
            if left.door != *door {
                return Err(format!("packet {n} leaves by {:?} instead of {door:?}", left.door));
            }
            if left.offload != expected.offload {
                return Err(format!(
                    "packet {n} leaves with {:?} instead of {:?}",
                    left.offload, expected.offload
                ));
            }
            if left.bytes != expected.bytes {
                return Err(difference(n, &expected.bytes, &left.bytes));
            }
        }
        if let (Some(answer), Some(left)) = (sent.answer, left.last()) {
            check_answer(&sent.packet, answer, left)?;
        }
        self.check_counters(sent, &before)
    }

    /// Exactly one outcome is counted for a packet.
    fn check_counters(&self, sent: &Sent, before: &Totals) -> Result<(), String> {
        let mut expected = before.clone();
        match sent.outcome {
            Outcome::Forward(..) => expected.transmitted += 1,
            Outcome::Drop(reason) => {
                match expected.drops.iter_mut().find(|drops| drops.reason == reason) {
                    Some(drops) => drops.packets += 1,
                    None => {
                        expected.drops.push(sarcenet_dataplane_api::Drops { reason, packets: 1 });
                    }
                }
                expected.drops.sort_by_key(|drops| drops.reason);
            }
        }
        expected.answered += u64::from(sent.answer.is_some());
        let after = self.totals();
        if after == expected {
            Ok(())
        } else {
            Err(format!("counted {after:?} instead of {expected:?}"))
        }
    }
}

/// The answer goes back by the packet's door, from the cell to the packet's sender, and quotes
/// the packet as it came.
fn check_answer(packet: &Packet, answer: Answer, left: &Left) -> Result<(), String> {
    if left.door != packet.door {
        return Err(format!("the answer leaves by {:?}", left.door));
    }
    let ip_bytes = match packet.door {
        Via::Tunnel(_) => {
            let sender =
                crate::table::world::End { door: packet.door, address: packet.source, tag: 0 };
            let header = encapsulated(&[], Tunnel::tagged(0, peer_mac(sender)), WORLD_MAC);
            left.bytes.strip_prefix(&header[..]).ok_or("the answer has another tunnel header")?
        }
        Via::Host | Via::Container(_) => &left.bytes[..],
    };
    let ip = Ipv4Packet::new_checked(ip_bytes).map_err(|_| "the answer is no IPv4 packet")?;
    if !ip.verify_checksum() || usize::from(ip.total_len()) != ip_bytes.len() {
        return Err("the answer's header is wrong".into());
    }
    if (ip.src_addr(), ip.dst_addr()) != (HOST.address, packet.source) {
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

fn difference(n: usize, expected: &[u8], seen: &[u8]) -> String {
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
