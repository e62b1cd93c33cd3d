//! Sequence numbers of TCP connections: which segments lie where their connection is.
//!
//! The bounds are those that RFC 9293 section 3.10.7.4 gives a receiver, as far as somebody between
//! the ends can know them (compare `tcp_in_window` in `nf_conntrack_proto_tcp.c`). For each side the
//! highest sequence number it has sent, the highest one it has acknowledged, and the largest window
//! it has offered are kept. A sender has at most one window under way, so a segment begins no more
//! than the other side's window behind what was seen of its sender, ends no more than that window
//! before it, and acknowledges nothing that is farther than its own window from what the other side
//! has sent. Every bound has [`SLACK`] for what was not seen: window probes, keep-alives, fragments,
//! the moment in which two workers see the two directions.
//!
//! Beyond that, a reset ends a connection only where its receiver surely takes it (RFC 5961 section
//! 3), and a SYN inside one changes nothing: the receiver answers both as it should.
//!
//! A connection that was under way before this dataplane knew of it is held to nothing until each
//! side has acknowledged what was seen of the other: until then a side's numbers begin anew where
//! its last segment says, so that a forged one cannot lead astray for good.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use sarcenet_dataplane_api::FlowState;

use super::tracking::{TCP_ACK, TCP_RST, TCP_SYN};

/// Bytes of sequence space by which every bound is wider than it had to be: what a window without
/// scale holds, and the longest packet.
const SLACK: u32 = 1 << 16;

/// Window of a side whose scale is not known: more than the largest that any system offers unless
/// it was tuned for it.
const UNSCALED: u32 = 1 << 26;

/// Largest window scale (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;

/// What a TCP segment says about sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its flags.
    pub flags: u8,
    /// Sequence number of its first byte, or of its SYN.
    pub sequence: u32,
    /// The next byte that its sender waits for; of no meaning without ACK.
    pub acknowledgment: u32,
    /// Its sender's window as the header has it, not scaled.
    pub window: u16,
    /// Sequence space it takes: bytes of payload, SYN and FIN. All segments of a super-packet.
    pub length: u32,
    /// The window scale that its sender will use; only a SYN has it.
    pub scale: Option<u8>,
}

impl Segment {
    #[inline]
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    const fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.length)
    }

    /// The scale plus one, as [`Side`] and [`Scales`] have it.
    fn scale_code(&self) -> u8 {
        self.scale.map_or(0, |scale| scale.min(MAX_SCALE)) + 1
    }
}

/// Where a segment of a known connection lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it belongs, as far as that is known.
    Inside,
    /// Where its receiver may take it or may not: it passes, but changes nothing.
    Aside,
    /// It answers a SYN that was let pass inside a connection: a new connection in its place.
    Anew,
    /// Where no segment of the connection can be.
    Outside,
}

/// What is known of one side, in the two words that it is kept in. Taken apart only where it is
/// looked at: this is done for every segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Side {
    /// `end << 32 | acked`: the sequence number behind the last byte that it has sent, and the
    /// highest one of the other side that it has acknowledged.
    numbers: u64,
    /// `pending << 32 | window | pending scale << 4 | flags`: the number behind a SYN of it that was
    /// let pass inside the connection and that SYN's window scale plus one, 0 when there is none;
    /// the largest window that it has offered, in bytes, a multiple of 256.
    rest: u64,
}

impl Side {
    /// Anything but the pending SYN is known.
    const SEEN: u64 = 1;
    /// It has acknowledged what was seen of the other side.
    const CONFIRMS: u64 = 2;
    const WINDOW: u64 = 0xffff_ff00;
    const PENDING: u64 = !0 << 32 | 0xf0;

    #[inline]
    fn load(words: &[AtomicU64; 2]) -> Self {
        Self { numbers: words[0].load(Relaxed), rest: words[1].load(Relaxed) }
    }

    /// Stores what differs from `before`, so that workers do not fight over the cache line.
    #[inline]
    fn store(self, before: Self, words: &[AtomicU64; 2]) {
        if self.numbers != before.numbers {
            words[0].store(self.numbers, Relaxed);
        }
        if self.rest != before.rest {
            words[1].store(self.rest, Relaxed);
        }
    }

    /// A side of which nothing but its last sequence number is known.
    const fn sent(end: u32) -> Self {
        Self { numbers: (end as u64) << 32, rest: Self::SEEN }
    }

    const fn end(self) -> u32 {
        (self.numbers >> 32) as u32
    }

    const fn acked(self) -> u32 {
        self.numbers as u32
    }

    const fn seen(self) -> bool {
        self.rest & Self::SEEN != 0
    }

    const fn confirms(self) -> bool {
        self.rest & Self::CONFIRMS != 0
    }

    const fn pending(self) -> u32 {
        (self.rest >> 32) as u32
    }

    const fn pending_scale(self) -> u8 {
        (self.rest >> 4 & 0xf) as u8
    }

    /// Forgets all but the pending SYN.
    const fn forgotten(self) -> Self {
        Self { numbers: 0, rest: self.rest & Self::PENDING }
    }

    const fn with_pending(self, pending: u32, scale: u8) -> Self {
        let rest = self.rest & !Self::PENDING | (pending as u64) << 32 | (scale as u64) << 4;
        Self { rest, ..self }
    }

    const fn confirming(self) -> Self {
        Self { rest: self.rest | Self::CONFIRMS, ..self }
    }

    /// How far from here what the other side sends may be.
    #[inline]
    const fn reach(self) -> u32 {
        (self.rest & Self::WINDOW) as u32 + SLACK
    }

    /// Takes in what a segment of this side says.
    #[inline]
    fn advanced(self, segment: &Segment, window: u32) -> Self {
        let new_end = !self.seen() || after(segment.end(), self.end());
        let end = if new_end { segment.end() } else { self.end() };
        let new_acked = segment.has(TCP_ACK)
            && (!self.confirms() || after(segment.acknowledgment, self.acked()));
        let acked = if new_acked { segment.acknowledgment } else { self.acked() };
        let window = u64::from(window).next_multiple_of(256).max(self.rest & Self::WINDOW);
        Self {
            numbers: u64::from(end) << 32 | u64::from(acked),
            rest: self.rest & !Self::WINDOW | window | Self::SEEN,
        }
    }

    /// Whether a segment of this side that begins and ends there is within `reach`.
    #[inline]
    const fn covers(self, segment: &Segment, reach: u32) -> bool {
        ahead(segment.sequence, self.end()) <= reach as i32
            && ahead(segment.end(), self.end()) >= -(reach as i32)
    }

    /// Whether `acknowledgment` is near what this side has sent.
    #[inline]
    const fn is_acknowledged_by(self, acknowledgment: u32, reach: u32) -> bool {
        ahead(acknowledgment, self.end()).unsigned_abs() <= reach
    }
}

/// By how much `a` is ahead of `b` (RFC 9293 section 3.4: modulo 2^32).
#[inline]
const fn ahead(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

#[inline]
const fn after(a: u32, b: u32) -> bool {
    ahead(a, b) > 0
}

/// The window scales of both sides, each plus one, 0 where it is not known: the beginner's in the
/// low half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Scales(pub(super) u8);

impl Scales {
    const NONE: Self = Self(0x11);

    /// The window in bytes that a segment offers.
    #[inline]
    const fn window(self, forward: bool, segment: &Segment) -> u32 {
        let window = segment.window as u32;
        if segment.has(TCP_SYN) {
            return window;
        }
        match self.0 >> (if forward { 0 } else { 4 }) & 0xf {
            0 => UNSCALED,
            code => window << (code - 1),
        }
    }

    /// The scales after a SYN. A SYN-ACK without one says that neither side scales.
    fn after(self, forward: bool, segment: &Segment) -> Self {
        if segment.has(TCP_ACK) && segment.scale.is_none() {
            return Self::NONE;
        }
        self.with(forward, segment.scale_code())
    }

    const fn with(self, forward: bool, code: u8) -> Self {
        Self(if forward { self.0 & 0xf0 | code } else { self.0 & 0x0f | code << 4 })
    }
}

/// The words of a flow's two sides, the beginner's first. Those of a side are written by the one
/// worker that its packets come to, and read by both.
pub(super) struct Windows<'t>(pub(super) &'t [[AtomicU64; 2]; 2]);

/// Words of a flow.
pub(super) const WORDS: usize = 4;

impl Windows<'_> {
    #[inline]
    fn halves(&self, forward: bool) -> (&[AtomicU64; 2], &[AtomicU64; 2]) {
        (&self.0[usize::from(!forward)], &self.0[usize::from(forward)])
    }

    /// Forgets everything: for a new flow.
    pub(super) fn clear(&self) {
        for word in self.0.as_flattened() {
            word.store(0, Relaxed);
        }
    }

    /// Where a segment lies that `state` admits.
    #[inline]
    pub(super) fn place(&self, state: FlowState, forward: bool, segment: &Segment) -> Place {
        let (own, other) = self.halves(forward);
        let (sender, receiver) = (Side::load(own), Side::load(other));
        if segment.has(TCP_SYN) {
            return place_of_syn(state, forward, segment, sender, receiver);
        }
        if !(sender.seen() && receiver.seen() && receiver.confirms()) {
            return place_of_early(state, segment, sender, receiver);
        }
        if !sender.covers(segment, receiver.reach()) {
            return Place::Outside;
        }
        if segment.has(TCP_RST) {
            // Between what the receiver has acknowledged and what it can have got.
            let taken = !after(receiver.acked(), segment.sequence)
                && !after(segment.sequence, sender.end());
            return if taken { Place::Inside } else { Place::Aside };
        }
        let acknowledges = !segment.has(TCP_ACK)
            || !sender.confirms()
            || receiver.is_acknowledged_by(segment.acknowledgment, sender.reach());
        if acknowledges { Place::Inside } else { Place::Outside }
    }

    /// Takes in a segment that is carried. Returns the scales as they are now.
    #[inline]
    pub(super) fn note(
        &self,
        state: FlowState,
        forward: bool,
        segment: &Segment,
        scales: Scales,
    ) -> Scales {
        use FlowState::{New, SynReceived, SynSent};
        let (own, other) = self.halves(forward);
        let (before, receiver) = (Side::load(own), Side::load(other));
        let mut sender = before;
        // A reset's window and acknowledgment say nothing. What comes back to a SYN may be about
        // an older connection (RFC 9293 section 3.5.1).
        if segment.has(TCP_RST) || state == SynSent && !forward && !segment.has(TCP_SYN) {
            return scales;
        }
        let opens = segment.has(TCP_SYN)
            && matches!(state, New | SynSent)
            && (!segment.has(TCP_ACK) || !sender.seen());
        if segment.has(TCP_SYN) && !opens && state != SynReceived {
            return scales;
        }
        if opens {
            sender = Side::default();
        } else if sender.seen() && !receiver.confirms() && !sender.covers(segment, receiver.reach())
        {
            sender = sender.forgotten();
        }
        let scales = if opens { scales.after(forward, segment) } else { scales };
        sender = sender.advanced(segment, scales.window(forward, segment));
        if segment.has(TCP_ACK)
            && receiver.seen()
            && receiver.is_acknowledged_by(segment.acknowledgment, sender.reach())
        {
            sender = sender.confirming();
        }
        sender.store(before, own);
        scales
    }

    /// Remembers a SYN that is let pass inside a connection.
    pub(super) fn note_aside(&self, forward: bool, segment: &Segment) {
        if segment.has(TCP_SYN) && !segment.has(TCP_ACK) {
            let (own, _) = self.halves(forward);
            let before = Side::load(own);
            before.with_pending(segment.end(), segment.scale_code()).store(before, own);
        }
    }

    /// Begins anew with the SYN that was let pass, and `segment`, which answers it.
    pub(super) fn renew(&self, forward: bool, segment: &Segment) -> Scales {
        let (own, other) = self.halves(forward);
        let asked = Side::load(other);
        // The other side's worker waits for this very answer.
        Side::sent(asked.pending()).store(asked, other);
        let scales = Scales(0).with(!forward, asked.pending_scale()).after(forward, segment);
        let sender = Side::default().advanced(segment, scales.window(forward, segment));
        sender.confirming().store(Side::load(own), own);
        scales
    }

    /// Whether `segment` is the answer to a SYN that was let pass inside the connection.
    pub(super) fn renews(&self, forward: bool, segment: &Segment) -> bool {
        let (_, other) = self.halves(forward);
        answers_pending(segment, Side::load(other))
    }
}

const fn answers_pending(segment: &Segment, receiver: Side) -> bool {
    segment.flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
        && receiver.pending_scale() != 0
        && segment.acknowledgment == receiver.pending()
}

/// Where a SYN or SYN-ACK lies.
#[cold]
fn place_of_syn(
    state: FlowState,
    forward: bool,
    segment: &Segment,
    sender: Side,
    receiver: Side,
) -> Place {
    use FlowState::{New, SynReceived, SynSent};
    if !segment.has(TCP_ACK) {
        // Again in an open connection, or from an end that has forgotten it.
        let opens = matches!(state, New | SynSent)
            || state == SynReceived && sender.seen() && segment.end() == sender.end();
        return if opens { Place::Inside } else { Place::Aside };
    }
    if answers_pending(segment, receiver) {
        return Place::Anew;
    }
    if state == New || !receiver.seen() {
        return Place::Inside;
    }
    if state == SynSent {
        // An answer to another SYN is reset by who gets it. One with data may be acknowledged in
        // part (RFC 7413 section 4.2).
        let answers =
            (-(SLACK as i32)..=0).contains(&ahead(segment.acknowledgment, receiver.end()));
        return if answers && !forward { Place::Inside } else { Place::Aside };
    }
    let known = sender.seen() && receiver.confirms();
    if known && !sender.covers(segment, receiver.reach()) { Place::Outside } else { Place::Inside }
}

/// Where a segment lies before both sides are known.
#[cold]
fn place_of_early(state: FlowState, segment: &Segment, sender: Side, receiver: Side) -> Place {
    if state != FlowState::SynSent || !segment.has(TCP_RST) {
        return Place::Inside;
    }
    if sender.seen() {
        // The beginner's answer to what is about an older connection.
        return if segment.sequence == sender.end() { Place::Inside } else { Place::Aside };
    }
    // A refusal acknowledges the SYN (RFC 9293 section 3.10.7.3).
    let refuses = segment.has(TCP_ACK)
        && (-(SLACK as i32)..=0).contains(&ahead(segment.acknowledgment, receiver.end()));
    if refuses || !receiver.seen() { Place::Inside } else { Place::Outside }
}

#[cfg(test)]
pub(in crate::flow) mod tests;
