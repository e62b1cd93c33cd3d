//! A cell that is nothing but a pipeline.

use std::sync::Arc;
use std::time::Duration;

use sarcenet_dataplane::flow::FlowTable;
use sarcenet_dataplane::packet::{Batch, Piece, Verdict};
use sarcenet_dataplane::pipeline::{Counters, Pipeline, Shared, Totals};

use crate::expectation::{Cell, Left, check_answer, difference, expected_totals};
use crate::table::packet::Packet;
use crate::table::world::World;
use crate::table::{Outcome, Sent};

/// A pipeline, its batch, and a clock.
pub(crate) struct TestCell {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    pipeline: Pipeline,
    batch: Batch,
    generation: u32,
    now_ns: u64,
}

impl TestCell {
    /// A cell with room for `flows` flows.
    pub(crate) fn new(world: &World, flows: usize) -> Self {
        let shared = Arc::new(Shared::new(FlowTable::new(flows).expect("a small flow table")));
        let counters = Arc::new(Counters::new());
        let pipeline = Pipeline::new(Arc::clone(&shared), 0, Arc::clone(&counters));
        let mut cell = Self {
            shared,
            counters,
            pipeline,
            batch: Batch::new(),
            generation: 0,
            now_ns: 1_000_000_000,
        };
        cell.put_in_force(world);
        cell
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
}

impl Cell for TestCell {
    fn put_in_force(&mut self, world: &World) {
        self.generation += 1;
        self.shared.policy.replace(&world.rules);
        self.shared.publish(world.topology(self.generation));
    }

    fn wait(&mut self, time: Duration) {
        self.now_ns += time.as_nanos() as u64;
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
        let (expected, after) = (expected_totals(sent, &before), self.totals());
        if after == expected {
            Ok(())
        } else {
            Err(format!("counted {after:?} instead of {expected:?}"))
        }
    }
}
