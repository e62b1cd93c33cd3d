//! Packets that wait until the container that they go to may have them.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::packet::{Batch, Offload, Packet, Verdict, Via};

/// Most bytes that wait at one worker.
const MOST_BYTES: usize = 32 << 20;

/// Most emptied buffers that are kept for the next packets.
const MOST_SPARE: usize = 256;

/// Packets of one worker that were decided, each until its time. What was booked first for a time
/// leaves first.
pub(super) struct Held {
    queue: BinaryHeap<Reverse<Waiting>>,
    /// Bytes in the queue.
    bytes: usize,
    /// How many packets have ever waited.
    count: u64,
    spare: Vec<Vec<u8>>,
    /// What the packets lie in when their time has come. None while it is lent.
    batch: Option<Batch>,
}

/// Ordered by its time, then by its number.
struct Waiting {
    not_before: u64,
    number: u64,
    to: Via,
    from: Via,
    flow_hash: u32,
    offload: Offload,
    bytes: Vec<u8>,
}

impl Waiting {
    fn order(&self) -> (u64, u64) {
        (self.not_before, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl Held {
    pub(super) fn new() -> Self {
        Self { queue: BinaryHeap::new(), bytes: 0, count: 0, spare: Vec::new(), batch: None }
    }

    /// Keeps a packet of `batch` that is to be forwarded until its time. Returns whether there was
    /// room for it.
    pub(super) fn keep(&mut self, batch: &Batch, packet: &Packet) -> bool {
        let Verdict::Forward(to) = packet.verdict else { return false };
        if self.bytes + packet.len() > MOST_BYTES {
            return false;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(batch.bytes(packet.head));
        for &piece in batch.tail(packet) {
            bytes.extend_from_slice(batch.bytes(piece));
        }
        self.bytes += bytes.len();
        self.count += 1;
        self.queue.push(Reverse(Waiting {
            not_before: packet.not_before,
            number: self.count,
            to,
            from: packet.from,
            flow_hash: packet.flow_hash,
            offload: packet.offload,
            bytes,
        }));
        true
    }

    /// How long it is until the first one's time.
    pub(super) fn next(&self, now_ns: u64) -> Option<Duration> {
        let Reverse(first) = self.queue.peek()?;
        Some(Duration::from_nanos(first.not_before.saturating_sub(now_ns)))
    }

    /// Whether the time of any has come.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        self.queue.peek().is_some_and(|Reverse(first)| first.not_before <= now_ns)
    }

    /// Takes packets whose time has come, as many as a batch holds. The batch is to be given back.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Batch {
        let mut batch = self.batch.take().unwrap_or_default();
        while self.is_due(now_ns)
            && batch.room() > 0
            && let Some(mut buffer) = batch.take_buffer()
            && let Some(Reverse(mut due)) = self.queue.pop()
        {
            self.bytes -= due.bytes.len();
            // A packet of a batch fits into a buffer: lengths of IPv4 packets have 16 bits.
            buffer.len = due.bytes.len() as u32;
            batch.bytes_mut(buffer).copy_from_slice(&due.bytes);
            if let Some(index) = batch.push(buffer, due.offload, due.from) {
                let packet = batch.packet_mut(index);
                packet.verdict = Verdict::Forward(due.to);
                packet.flow_hash = due.flow_hash;
            }
            due.bytes.clear();
            if self.spare.len() < MOST_SPARE {
                self.spare.push(due.bytes);
            }
        }
        batch
    }

    /// Takes the batch back.
    pub(super) fn give_back(&mut self, mut batch: Batch) {
        batch.clear();
        self.batch = Some(batch);
    }
}

#[cfg(test)]
mod tests {
    use sarcenet_dataplane_api::PortId;

    use super::*;
    use crate::packet::BUFFER_LEN;

    /// A batch of packets that are to wait until these times, each of one byte: its place.
    fn batch(times: &[u64]) -> Batch {
        let mut batch = Batch::new();
        for (place, &not_before) in times.iter().enumerate() {
            let mut buffer = batch.take_buffer().unwrap();
            buffer.len = 1;
            batch.bytes_mut(buffer)[0] = place as u8;
            let index = batch.push(buffer, Offload::default(), Via::Host).unwrap();
            let packet = batch.packet_mut(index);
            packet.verdict = Verdict::Forward(Via::Container(PortId(7)));
            packet.not_before = not_before;
        }
        batch
    }

    fn due(held: &mut Held, now_ns: u64) -> Vec<u8> {
        let batch = held.take_due(now_ns);
        let places = (0..batch.len())
            .inspect(|&index| {
                let packet = batch.packet(index);
                assert_eq!(packet.verdict, Verdict::Forward(Via::Container(PortId(7))));
                assert!(packet.not_before <= now_ns);
            })
            .map(|index| batch.copy_out(index)[0])
            .collect();
        held.give_back(batch);
        places
    }

    #[test]
    fn packets_leave_at_their_time_and_in_their_order() {
        let mut held = Held::new();
        let batch = batch(&[30, 10, 20, 20, 40]);
        assert_eq!(held.next(5), None);
        assert!(batch.packets().iter().all(|packet| held.keep(&batch, packet)));
        assert_eq!(held.next(5), Some(Duration::from_nanos(5)));
        assert!(!held.is_due(9));
        assert!(due(&mut held, 9).is_empty());
        assert_eq!(due(&mut held, 20), [1, 2, 3]);
        assert_eq!(held.next(50), Some(Duration::ZERO));
        assert_eq!(due(&mut held, 50), [0, 4]);
        assert_eq!((held.next(50), held.bytes), (None, 0));
    }

    #[test]
    fn more_than_a_batch_holds_comes_in_several() {
        let mut held = Held::new();
        let batch = batch(&[1; 100]);
        for _ in 0..2 {
            assert!(batch.packets().iter().all(|packet| held.keep(&batch, packet)));
        }
        let first = due(&mut held, 1).len();
        assert_eq!((first + due(&mut held, 1).len(), held.is_due(1)), (200, false));
    }

    #[test]
    fn what_waits_is_bounded_and_whole() {
        let mut held = Held::new();
        let mut batch = Batch::new();
        let mut head = batch.take_buffer().unwrap();
        (head.len, batch.bytes_mut(head)[0]) = (65_000, 1);
        let mut tail = batch.take_buffer().unwrap();
        (tail.len, batch.bytes_mut(tail)[0]) = (500, 2);
        let index = batch.push_scattered(head, &[tail], Offload::default(), Via::Host).unwrap();
        batch.packet_mut(index).verdict = Verdict::Forward(Via::Container(PortId(7)));
        let packet = batch.packet(index).clone();
        assert!(packet.len() < BUFFER_LEN);
        let kept = (0..10_000).take_while(|_| held.keep(&batch, &packet)).count();
        assert_eq!(kept, MOST_BYTES / packet.len());
        let out = held.take_due(0);
        let bytes = out.copy_out(0);
        assert_eq!((bytes.len(), bytes[0], bytes[65_000]), (65_500, 1, 2));
        held.give_back(out);
        assert!(held.keep(&batch, &packet), "there is room again");
    }
}
