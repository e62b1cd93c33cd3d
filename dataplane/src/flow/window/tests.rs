use super::*;
use crate::flow::{
    Admission, FlowKey, FlowTable, NewFlow, TCP_ACK as ACK, TCP_FIN as FIN, TCP_RST as RST,
    TCP_SYN as SYN,
};
use crate::nat::Nat;
use crate::packet::Via;
use Admission::{Anew, Aside, Continue, Invalid, OutOfWindow, Reopen};
use FlowState::{Closed, Established, FinWait, SynReceived, SynSent, TimeWait};
use proptest::prelude::*;
use sarcenet_dataplane_api::PortId;
use std::net::Ipv4Addr;

/// A segment with nothing but flags, as tests of other things need it.
pub(in crate::flow) const fn bare(flags: u8) -> Segment {
    segment(flags, 0, 0, 0)
}

const fn segment(flags: u8, sequence: u32, acknowledgment: u32, payload: u32) -> Segment {
    let controls = (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    Segment {
        flags,
        sequence,
        acknowledgment,
        window: 1000,
        length: payload + controls,
        scale: None,
    }
}

impl Segment {
    const fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    const fn scale(self, scale: u8) -> Self {
        Self { scale: Some(scale), ..self }
    }
}

const KEY: FlowKey = FlowKey {
    source: Ipv4Addr::new(10, 255, 1, 2),
    destination: Ipv4Addr::new(10, 255, 2, 3),
    source_port: 40_000,
    destination_port: 8080,
    protocol: 6,
};

/// One connection in a table.
struct Talk {
    table: FlowTable,
}

const FWD: bool = true;
const REV: bool = false;

impl Talk {
    fn new() -> Self {
        Self::begun_in(FlowTable::new(16).unwrap())
    }

    fn begun_in(table: FlowTable) -> Self {
        let new = NewFlow {
            key: KEY,
            from: Via::Container(PortId(1)),
            to: Via::Container(PortId(2)),
            tag: 1,
            rule: None,
            generation: 1,
            nat: Nat::None,
        };
        table.insert(&new, 0, &table.pin()).unwrap();
        Self { table }
    }

    /// Carries a segment if it is admitted.
    fn send(&self, forward: bool, segment: Segment) -> (Admission, FlowState) {
        let guard = self.table.pin();
        let key = if forward { KEY } else { KEY.reversed() };
        let hit = self.table.lookup(&key, &guard).unwrap();
        let admission = self.table.admits(&hit, Some(&segment));
        if matches!(admission, Continue | Aside | Anew) {
            self.table.track(&hit, admission, Some(&segment), 1, 40, 0);
        }
        (admission, hit.flow.state())
    }

    fn passes(&self, forward: bool, segment: Segment, state: FlowState) {
        assert_eq!(self.send(forward, segment), (Continue, state), "{segment:?}");
    }

    /// Everything that is known of the connection.
    fn known(&self) -> (Vec<u64>, Scales, FlowState) {
        let guard = self.table.pin();
        let flow = self.table.lookup(&KEY, &guard).unwrap().flow;
        let words = self.table.store.windows(flow).unwrap().0;
        (
            words.as_flattened().iter().map(|word| word.load(Relaxed)).collect(),
            flow.scales(),
            flow.state(),
        )
    }

    /// It does not pass, and nothing is known of it afterwards.
    fn stays_outside(&self, forward: bool, segment: Segment) {
        let before = self.known();
        assert_eq!(self.send(forward, segment).0, OutOfWindow, "{segment:?}");
        assert_eq!(self.known(), before);
    }
}

/// Sequence numbers with which a connection begins.
const STARTS: [[u32; 2]; 3] = [[1000, 9_000_000], [u32::MAX - 1, 0x7fff_ffff], [0, 0]];

/// An established connection, and the next sequence number of each side.
fn established(starts: [u32; 2], scale: Option<u8>) -> (Talk, [u32; 2]) {
    let talk = Talk::new();
    let next = talk.open(starts, scale);
    (talk, next)
}

impl Talk {
    /// Opens the connection. Returns the next sequence number of each side.
    fn open(&self, [a, b]: [u32; 2], scale: Option<u8>) -> [u32; 2] {
        let with_scale = |segment: Segment| Segment { scale, ..segment };
        self.passes(FWD, with_scale(segment(SYN, a, 0, 0)), SynSent);
        let [a, b1] = [a.wrapping_add(1), b.wrapping_add(1)];
        self.passes(REV, with_scale(segment(SYN | ACK, b, a, 0)), SynReceived);
        self.passes(FWD, segment(ACK, a, b1, 0), Established);
        // The first window that is scaled.
        self.passes(REV, segment(ACK, b1, a, 0), Established);
        [a, b1]
    }
}

#[test]
fn what_real_stacks_send_passes() {
    for starts in STARTS {
        let (talk, [a, b]) = established(starts, Some(7));
        let (at, bt) = (|n: u32| a.wrapping_add(n), |n: u32| b.wrapping_add(n));
        let pass = |forward, segment| talk.passes(forward, segment, Established);
        // A request in a super-packet, its answer, acknowledgments.
        pass(FWD, segment(ACK, a, b, 61_000));
        pass(REV, segment(ACK, b, at(61_000), 64_000));
        pass(FWD, segment(ACK, at(61_000), bt(64_000), 0));
        // Again, the whole of it and the end of it.
        pass(FWD, segment(ACK, a, b, 61_000));
        pass(FWD, segment(ACK, at(60_000), bt(64_000), 1000));
        // A segment is lost, later ones come first, duplicates acknowledge, the hole is filled.
        pass(REV, segment(ACK, bt(65_448), at(61_000), 1448));
        pass(FWD, segment(ACK, at(61_000), bt(64_000), 0));
        pass(FWD, segment(ACK, at(61_000), bt(64_000), 0));
        pass(REV, segment(ACK, bt(64_000), at(61_000), 1448));
        pass(FWD, segment(ACK, at(61_000), bt(66_896), 0));
        // Keep-alive, with and without a byte of garbage, and its answer.
        pass(FWD, segment(ACK, at(60_999), bt(66_896), 0));
        pass(FWD, segment(ACK, at(60_999), bt(66_896), 1));
        pass(REV, segment(ACK, bt(66_896), at(61_000), 0));
        // The window closes, is probed, and opens.
        pass(REV, segment(ACK, bt(66_896), at(61_000), 0).window(0));
        pass(FWD, segment(ACK, at(61_000), bt(66_896), 1));
        pass(REV, segment(ACK, bt(66_896), at(61_000), 0).window(0));
        pass(REV, segment(ACK, bt(66_896), at(61_001), 0));
        // A SYN-ACK whose acknowledgment was lost, and a SYN that was delayed.
        assert_eq!(
            established(starts, None).0.send(REV, segment(SYN | ACK, starts[1], a, 0)),
            (Continue, Established)
        );
        // Both close.
        talk.passes(FWD, segment(FIN | ACK, at(61_001), bt(66_896), 0), FinWait);
        talk.passes(REV, segment(ACK, bt(66_896), at(61_002), 500), FinWait);
        talk.passes(REV, segment(FIN | ACK, bt(67_396), at(61_002), 0), TimeWait);
        talk.passes(FWD, segment(ACK, at(61_002), bt(67_397), 0), TimeWait);
        assert_eq!(talk.send(FWD, segment(SYN, 77, 0, 0)).0, Reopen);
    }
}

#[test]
fn what_lies_outside_changes_nothing() {
    for starts in STARTS {
        let (talk, [a, b]) = established(starts, Some(7));
        // Both windows are 128,000 bytes.
        for far in [1 << 18, 1 << 24, 1 << 31, 3 << 30, u32::MAX - (1 << 18)] {
            let (a_far, b_far) = (a.wrapping_add(far), b.wrapping_add(far));
            for flags in [RST, RST | ACK, ACK, FIN | ACK] {
                talk.stays_outside(FWD, segment(flags, a_far, b, 0));
                talk.stays_outside(REV, segment(flags, b_far, a, 100));
            }
            talk.stays_outside(REV, segment(SYN | ACK, b_far, a, 0));
            // In place, but it acknowledges what nobody has sent (RFC 5961 section 5).
            talk.stays_outside(REV, segment(ACK, b, a_far, 100));
            talk.stays_outside(FWD, segment(FIN | ACK, a, b_far, 0));
        }
        talk.passes(FWD, segment(ACK, a, b, 100), Established);
    }
}

#[test]
fn a_window_is_as_large_as_it_was_offered() {
    let start = [5000, 6000];
    let (scaled, [a, b]) = established(start, Some(10));
    let far = a + 900_000;
    scaled.passes(FWD, segment(ACK, far, b, 0), Established);
    let (plain, _) = established(start, None);
    plain.stays_outside(FWD, segment(ACK, far, b, 0));
    // What was offered once is not taken back.
    let (talk, _) = established(start, Some(10));
    talk.passes(REV, segment(ACK, b, a, 0).window(1), Established);
    talk.passes(FWD, segment(ACK, far, b, 0), Established);
    // Only one side can scale: neither does. Larger scales than there are mean the largest.
    let talk = Talk::new();
    talk.passes(FWD, segment(SYN, 0, 0, 0).scale(200), SynSent);
    assert_eq!(talk.known().1, Scales(0x0f));
    talk.passes(REV, segment(SYN | ACK, 0, 1, 0), SynReceived);
    assert_eq!(talk.known().1, Scales(0x11));
}

#[test]
fn a_reset_ends_a_connection_only_where_its_receiver_takes_it() {
    let (talk, [a, b]) = established([5000, 6000], Some(7));
    talk.passes(REV, segment(ACK, b, a, 2000), Established);
    // Far from it: nothing. Near it: its receiver asks (RFC 5961 section 3), we wait.
    talk.stays_outside(REV, segment(RST, b + 10_000_000, 0, 0));
    for near in [b - 1, b + 2001, b + 60_000] {
        let before = talk.known();
        assert_eq!(talk.send(REV, segment(RST, near, 0, 0)), (Aside, Established));
        assert_eq!(talk.known(), before);
    }
    // The answer to that question is exact.
    talk.passes(FWD, segment(ACK, a, b + 2000, 0), Established);
    assert_eq!(talk.send(REV, segment(RST, b, 0, 0)), (Aside, Established));
    talk.passes(REV, segment(RST, b + 2000, 0, 0), Closed);

    // One behind data that is not acknowledged yet, and one that gives up that data.
    for sequence in [6001, 8001] {
        let (talk, [a, b]) = established([5000, 6000], Some(7));
        talk.passes(REV, segment(ACK, b, a, 2000), Established);
        talk.passes(REV, segment(RST | ACK, sequence, 0, 0), Closed);
    }
}

#[test]
fn a_refusal_acknowledges_the_syn() {
    let talk = Talk::new();
    talk.passes(FWD, segment(SYN, 5_000_000, 0, 0), SynSent);
    talk.stays_outside(REV, segment(RST, 0, 0, 0));
    talk.stays_outside(REV, segment(RST | ACK, 0, 5_000_002, 0));
    talk.stays_outside(REV, segment(RST | ACK, 0, 4_000_000, 0));
    talk.passes(REV, segment(RST | ACK, 0, 5_000_001, 0), Closed);
}

/// RFC 9293 section 3.5.1, figure 9: one end has forgotten the connection, the other has not, and
/// this cell has.
#[test]
fn a_half_open_connection_is_discovered() {
    let talk = Talk::new();
    talk.passes(FWD, segment(SYN, 400, 0, 0), SynSent);
    talk.passes(REV, segment(ACK, 3_000_000_000, 1_000_000_000, 0), SynSent);
    assert_eq!(talk.send(FWD, segment(RST, 1_000_000_000, 0, 0)), (Aside, SynSent));
    talk.passes(FWD, segment(SYN, 400, 0, 0), SynSent);
    // An answer to an older SYN goes the same way.
    let old = segment(SYN | ACK, 77, 3_000_000_000, 0);
    assert_eq!(talk.send(REV, old), (Aside, SynSent));
    assert_eq!(talk.send(FWD, segment(RST, 3_000_000_000, 0, 0)), (Aside, SynSent));
    talk.passes(REV, segment(SYN | ACK, 8000, 401, 0), SynReceived);
    talk.passes(FWD, segment(ACK, 401, 8001, 10), Established);
    talk.stays_outside(REV, segment(RST, 3_000_000_000, 0, 0));
}

#[test]
fn a_syn_inside_a_connection_changes_nothing() {
    let (talk, [a, b]) = established([5000, 6000], Some(7));
    assert_eq!(talk.send(FWD, segment(SYN, 2_000_000_000, 0, 0)), (Aside, Established));
    assert_eq!(talk.send(REV, segment(SYN, 2_000_000_000, 0, 0)).0, Invalid);
    // Its receiver says where it is, and the beginner, which has forgotten it, resets.
    talk.passes(REV, segment(ACK, b, a, 0), Established);
    talk.passes(FWD, segment(ACK, a, b, 10), Established);
    talk.stays_outside(FWD, segment(ACK, 2_000_000_001, b, 0));
    talk.stays_outside(REV, segment(SYN | ACK, 1_000_000_000, a, 0));
    talk.passes(FWD, segment(RST, a + 10, 0, 0), Closed);
}

/// Both ends have forgotten it, this cell has not.
#[test]
fn an_answered_syn_begins_anew() {
    for closing in [false, true] {
        let (talk, [a, b]) = established([5000, 6000], Some(7));
        if closing {
            talk.passes(REV, segment(FIN | ACK, b, a, 0), FinWait);
        }
        let syn = segment(SYN, 2_000_000_000, 0, 0).scale(3);
        assert_eq!(talk.send(FWD, syn).0, Aside);
        let answer = segment(SYN | ACK, 4_000_000_000, 2_000_000_001, 0).scale(4);
        assert_eq!(talk.send(REV, answer), (Anew, SynReceived));
        assert_eq!(talk.known().1, Scales(0x54));
        talk.passes(FWD, segment(ACK, 2_000_000_001, 4_000_000_001, 100), Established);
        talk.passes(REV, segment(ACK, 4_000_000_001, 2_000_000_101, 100), Established);
        talk.stays_outside(FWD, segment(ACK, a, b, 100));
        talk.stays_outside(REV, segment(RST, b, 0, 0));
    }
}

#[test]
fn both_ends_may_open_at_once() {
    let talk = Talk::new();
    talk.passes(FWD, segment(SYN, 1_000_000, 0, 0).scale(7), SynSent);
    talk.passes(REV, segment(SYN, 3_000_000_000, 0, 0).scale(7), SynReceived);
    talk.passes(REV, segment(SYN, 3_000_000_000, 0, 0).scale(7), SynReceived);
    talk.passes(FWD, segment(SYN | ACK, 1_000_000, 3_000_000_001, 0).scale(7), SynReceived);
    talk.passes(REV, segment(SYN | ACK, 3_000_000_000, 1_000_001, 0).scale(7), SynReceived);
    talk.passes(FWD, segment(ACK, 1_000_001, 3_000_000_001, 10), Established);
    talk.passes(REV, segment(ACK, 3_000_000_001, 1_000_011, 10), Established);
    talk.stays_outside(REV, segment(RST, 1_000_011, 0, 0));
}

#[test]
fn data_with_a_syn() {
    let talk = Talk::new();
    talk.passes(FWD, segment(SYN, 1_000_000, 0, 1000), SynSent);
    talk.passes(REV, segment(SYN | ACK, 2_000_000, 1_000_001, 0), SynReceived);
    talk.passes(FWD, segment(ACK, 1_000_001, 2_000_001, 1000), Established);
    talk.passes(REV, segment(ACK, 2_000_001, 1_001_001, 0), Established);
}

#[test]
fn one_taken_up_is_held_to_nothing_until_both_sides_were_seen() {
    let talk = Talk::new();
    talk.passes(FWD, segment(ACK, 5_000_000, 6_000_000, 100), FlowState::New);
    talk.passes(FWD, segment(ACK, 900_000_000, 0, 100), FlowState::New);
    talk.passes(REV, segment(ACK, 6_000_000, 900_000_100, 10), Established);
    talk.passes(FWD, segment(ACK, 900_000_100, 6_000_010, 0), Established);
    talk.stays_outside(FWD, segment(RST, 5_000_000, 0, 0));
    talk.stays_outside(REV, segment(RST, 900_000_100, 0, 0));
    // Its scales are unknown; nothing that a sender may have under way is too far.
    talk.passes(REV, segment(ACK, 50_000_000, 900_000_100, 10), Established);
}

/// From the table's file: the scales are known, the numbers are not.
#[test]
fn one_that_outlives_its_dataplane_keeps_its_scales() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flows");
    {
        let talk = Talk::begun_in(FlowTable::open(&path, 16).unwrap().0);
        talk.open([5000, 6000], Some(7));
    }
    let talk = Talk { table: FlowTable::open(&path, 16).unwrap().0 };
    assert_eq!(talk.known(), (vec![0; WORDS], Scales(0x88), Established));
    let (a, b) = (700_000_000, 800_000_000);
    talk.passes(REV, segment(ACK, b, a, 100), Established);
    talk.passes(FWD, segment(ACK, a, b + 100, 100), Established);
    talk.passes(REV, segment(ACK, b + 100, a + 100, 0), Established);
    talk.passes(FWD, segment(ACK, a + 128_000, b + 100, 0), Established);
    talk.stays_outside(FWD, segment(ACK, a + 500_000, b + 100, 0));
    talk.stays_outside(REV, segment(RST, b - 500_000, 0, 0));
}

#[test]
fn a_forged_segment_does_not_lead_one_that_is_taken_up_astray() {
    let talk = Talk::new();
    talk.passes(FWD, segment(ACK, 5_000_000, 6_000_000, 100), FlowState::New);
    let forged = segment(ACK, 3_000_000_000, 1_000_000_000, 100);
    talk.passes(REV, forged, Established);
    talk.passes(FWD, segment(ACK, 5_000_100, 6_000_000, 100), Established);
    talk.passes(REV, segment(ACK, 6_000_000, 5_000_200, 100), Established);
    talk.passes(FWD, segment(ACK, 5_000_200, 6_000_100, 100), Established);
    talk.stays_outside(REV, forged);
    talk.passes(REV, segment(ACK, 6_000_100, 5_000_300, 100), Established);
}

#[test]
fn two_words_hold_a_side() {
    let words = [AtomicU64::new(0), AtomicU64::new(0)];
    let nothing = Side::load(&words);
    assert!(!nothing.seen() && !nothing.confirms() && nothing.pending_scale() == 0);
    let largest = u32::from(u16::MAX) << MAX_SCALE;
    let side = nothing
        .with_pending(0xdead_beef, 15)
        .advanced(&segment(ACK, u32::MAX, 1 << 31, 0), largest);
    side.store(nothing, &words);
    let side = Side::load(&words);
    assert_eq!((side.end(), side.acked()), (u32::MAX, 1 << 31));
    assert_eq!((side.pending(), side.pending_scale()), (0xdead_beef, 15));
    assert_eq!(side.reach(), largest.next_multiple_of(256) + SLACK);
    assert!(side.seen() && !side.confirms() && side.confirming().confirms());
    let forgotten = side.confirming().forgotten();
    assert!(!forgotten.seen() && !forgotten.confirms());
    assert_eq!((forgotten.pending(), forgotten.reach()), (0xdead_beef, SLACK));
}

/// One direction of a bulk transfer, as a sender and a receiver with that window drive it over a
/// network that loses, repeats and reorders.
#[derive(Debug, Clone, Copy)]
enum Event {
    Data { len: u16 },
    Again { behind: u32 },
    Acknowledge,
    OldAcknowledge { behind: u32 },
    KeepAlive,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..=62_000_u16).prop_map(|len| Event::Data { len }),
        2 => (0..=100_000_u32).prop_map(|behind| Event::Again { behind }),
        3 => Just(Event::Acknowledge),
        1 => (0..=50_000_u32).prop_map(|behind| Event::OldAcknowledge { behind }),
        1 => Just(Event::KeepAlive),
    ]
}

proptest! {
    /// Whatever a sender within its window and a receiver do, all of it passes; and what is farther
    /// away than any window never does.
    #[test]
    fn transfers_pass_and_forgeries_do_not(
        starts: [u32; 2],
        events in prop::collection::vec(event(), 1..200),
        forged: u32,
        flags in prop::sample::select(vec![RST, RST | ACK, ACK, FIN | ACK]),
    ) {
        let (talk, [a, b]) = established(starts, Some(7));
        // Offered: 1000 << 7.
        let window = 128_000;
        let (mut sent, mut acked) = (0_u32, 0_u32);
        for event in events {
            let (forward, segment) = match event {
                Event::Data { len } => {
                    let len = u32::from(len).min(window - (sent - acked));
                    sent += len;
                    (FWD, segment(ACK, a.wrapping_add(sent - len), b, len))
                }
                Event::Again { behind } => {
                    let behind = behind.min(sent - acked);
                    (FWD, segment(ACK, a.wrapping_add(sent - behind), b, behind.min(1448)))
                }
                Event::Acknowledge => {
                    acked = sent;
                    (REV, segment(ACK, b, a.wrapping_add(acked), 0))
                }
                Event::OldAcknowledge { behind } => {
                    (REV, segment(ACK, b, a.wrapping_add(acked - behind.min(acked)), 0))
                }
                Event::KeepAlive => (FWD, segment(ACK, a.wrapping_add(acked).wrapping_sub(1), b, 0)),
            };
            prop_assert_eq!(talk.send(forward, segment), (Continue, Established), "{:?}", segment);
        }
        let distance = ahead(forged, a.wrapping_add(sent)).unsigned_abs();
        if distance > 2 * (window + SLACK) {
            talk.stays_outside(FWD, segment(flags, forged, b, 0));
            talk.stays_outside(REV, segment(flags & !ACK | ACK, b, forged, 1).only_if_data(flags));
        }
    }
}

impl Segment {
    /// An acknowledgment of nothing counts for data, not for a reset.
    fn only_if_data(self, flags: u8) -> Self {
        Self { flags: if flags & RST == 0 { self.flags } else { ACK }, ..self }
    }
}
