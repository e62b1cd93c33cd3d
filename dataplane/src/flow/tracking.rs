//! Connection tracking: which state a conversation is in, which packets belong to it, and how
//! long it may be silent.
//!
//! This is the half of what the kernel does (`net/netfilter/nf_conntrack_proto_tcp.c`) that follows
//! flags and directions. The other half, sequence numbers, is in `window`.

use sarcenet_dataplane_api::{FlowState, Timeouts};

/// TCP flag: no more data from the sender.
pub const TCP_FIN: u8 = 0x01;
/// TCP flag: opens a connection.
pub const TCP_SYN: u8 = 0x02;
/// TCP flag: refuses or aborts.
pub const TCP_RST: u8 = 0x04;
/// TCP flag: the acknowledgement number is valid.
pub const TCP_ACK: u8 = 0x10;
/// TCP flag: the urgent pointer is valid.
const TCP_URG: u8 = 0x20;

/// IP protocol number of ICMP.
pub(super) const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// IP protocol number of UDP.
pub(super) const UDP: u8 = 17;

/// Whether a packet may be carried as part of a known conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It belongs to the conversation.
    Continue,
    /// It may pass, but its receiver may not take it: the conversation stays as it is.
    Aside,
    /// It answers a SYN that passed aside: the conversation begins again with it.
    Anew,
    /// A new connection between the same ends after the last one finished: remove the flow and
    /// decide the packet as the first of a new one.
    Reopen,
    /// It cannot be part of the conversation and opens none.
    Invalid,
    /// Its sequence numbers lie where those of the conversation cannot be.
    OutOfWindow,
}

/// Whether these TCP flags make sense together, by the kernel's list (`tcp_valid_flags`).
pub const fn tcp_flags_valid(flags: u8) -> bool {
    const SYN_URG: u8 = TCP_SYN | TCP_URG;
    const SYN_ACK: u8 = TCP_SYN | TCP_ACK;
    const RST_ACK: u8 = TCP_RST | TCP_ACK;
    const FIN_ACK: u8 = TCP_FIN | TCP_ACK;
    const FIN_ACK_URG: u8 = FIN_ACK | TCP_URG;
    const ACK_URG: u8 = TCP_ACK | TCP_URG;
    // PSH, ECE and CWR may accompany anything.
    matches!(
        flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_URG),
        TCP_SYN | SYN_URG | SYN_ACK | TCP_RST | RST_ACK | FIN_ACK | FIN_ACK_URG | TCP_ACK | ACK_URG
    )
}

/// How long one conversation may be silent before it is forgotten, in tenths of a second.
pub(super) const fn limit(timeouts: &Timeouts, protocol: u8, state: FlowState) -> u32 {
    let seconds = match (protocol, state) {
        (TCP, FlowState::New) => timeouts.tcp_new,
        (TCP, FlowState::SynSent) => timeouts.tcp_syn_sent,
        (TCP, FlowState::SynReceived) => timeouts.tcp_syn_received,
        (TCP, FlowState::Established) => timeouts.tcp_established,
        (TCP, FlowState::FinWait) => timeouts.tcp_fin_wait,
        (TCP, FlowState::TimeWait) => timeouts.tcp_time_wait,
        (TCP, FlowState::Closed) => timeouts.tcp_closed,
        (UDP, FlowState::Established) => timeouts.udp_stream,
        (UDP, _) => timeouts.udp_new,
        (ICMP, _) => timeouts.icmp,
        _ => timeouts.other,
    };
    seconds.saturating_mul(SECOND)
}

/// Tenths of a second in a second: the unit of every `now`.
const SECOND: u32 = 10;

/// A flow's state as it lies in its entry: one byte, so that it changes in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) u8);

impl Status {
    /// A flow whose first packet has not been counted yet.
    pub(super) const FRESH: Self = Self(Self::LIVE);

    const STATE: u8 = 0b0000_0111;
    /// The other side has sent something.
    const REPLIED: u8 = 0b0000_1000;
    /// The beginner has sent FIN.
    const FIN_FORWARD: u8 = 0b0001_0000;
    /// The other side has sent FIN.
    const FIN_REVERSE: u8 = 0b0010_0000;
    /// Taken out of the table, but perhaps still looked at.
    pub(super) const REMOVED: u8 = 0b0100_0000;
    /// The entry has been filled; untouched memory is all zero.
    const LIVE: u8 = 0b1000_0000;

    /// Whether the entry holds a flow that has not been removed.
    pub(super) const fn is_live(self) -> bool {
        self.0 & (Self::LIVE | Self::REMOVED) == Self::LIVE
    }

    /// Whether it is in the table and the other side has sent nothing.
    pub(super) const fn waits(self) -> bool {
        self.is_live() && !self.replied()
    }

    /// Whether every bit has a meaning; not so in a file that something else has written.
    pub(super) const fn is_valid(self) -> bool {
        self.0 & Self::STATE <= FlowState::Closed as u8
    }

    pub(super) const fn replied(self) -> bool {
        self.0 & Self::REPLIED != 0
    }

    pub(super) const fn state(self) -> FlowState {
        match self.0 & Self::STATE {
            0 => FlowState::New,
            1 => FlowState::SynSent,
            2 => FlowState::SynReceived,
            3 => FlowState::Established,
            4 => FlowState::FinWait,
            5 => FlowState::TimeWait,
            _ => FlowState::Closed,
        }
    }

    const fn with_state(self, state: FlowState) -> Self {
        Self(self.0 & !Self::STATE | state as u8)
    }

    /// The status of a connection whose beginner has sent a new SYN, now answered.
    pub(super) const fn renewed(self) -> Self {
        Self(self.0 & !(Self::FIN_FORWARD | Self::FIN_REVERSE) | Self::REPLIED)
            .with_state(FlowState::SynReceived)
    }

    /// The status after one more packet. `tcp_flags` is none for other protocols.
    #[inline]
    pub(super) const fn after(self, forward: bool, tcp_flags: Option<u8>) -> Self {
        let next = if forward { self } else { Self(self.0 | Self::REPLIED) };
        match tcp_flags {
            Some(flags) => next.after_tcp(forward, flags),
            None if next.replied() => next.with_state(FlowState::Established),
            None => next,
        }
    }

    /// See `tcp_conntracks` in `nf_conntrack_proto_tcp.c`, which has the same rows. A finished
    /// connection stays finished: its ends can only begin a new one ([`Admission::Reopen`]).
    const fn after_tcp(self, forward: bool, flags: u8) -> Self {
        use FlowState::{Closed, Established, FinWait, New, SynReceived, SynSent, TimeWait};
        let state = self.state();
        if matches!(state, TimeWait | Closed) {
            return self;
        }
        if flags & TCP_RST != 0 {
            return self.with_state(Closed);
        }
        if flags & TCP_SYN != 0 {
            return match (state, forward, flags & TCP_ACK != 0) {
                (New, true, false) => self.with_state(SynSent),
                // SYN-ACK, or SYN of a simultaneous open (RFC 9293 section 3.5).
                (SynSent, false, _) => self.with_state(SynReceived),
                _ => self,
            };
        }
        if flags & TCP_FIN != 0 {
            let fin = if forward { Self::FIN_FORWARD } else { Self::FIN_REVERSE };
            let next = Self(self.0 | fin);
            let both = Self::FIN_FORWARD | Self::FIN_REVERSE;
            return next.with_state(if next.0 & both == both { TimeWait } else { FinWait });
        }
        match (state, forward) {
            // The third packet of the handshake, from the other side after a simultaneous open.
            // Picked up in mid-stream: known to be alive only when the other side answers.
            (SynReceived, _) | (New, false) => self.with_state(Established),
            _ => self,
        }
    }

    /// Whether a packet may be carried in this state.
    #[inline]
    pub(super) const fn admits(self, forward: bool, tcp_flags: Option<u8>) -> Admission {
        use FlowState::{Closed, Established, New, SynReceived, SynSent, TimeWait};
        let Some(flags) = tcp_flags else { return Admission::Continue };
        if !tcp_flags_valid(flags) {
            return Admission::Invalid;
        }
        if flags & TCP_SYN == 0 {
            return Admission::Continue;
        }
        match (self.state(), forward, flags & TCP_ACK != 0) {
            (TimeWait | Closed, _, false) => Admission::Reopen,
            // A SYN again, or from a beginner that has forgotten the connection: the receiver's
            // TCP answers it (RFC 5961 section 4).
            (_, true, false)
            // SYN of a simultaneous open (RFC 9293 section 3.5), also again; then the beginner too
            // sends SYN-ACK.
            | (SynSent | SynReceived, false, false)
            | (SynReceived, true, true)
            // SYN-ACK, also again.
            | (SynSent | SynReceived | Established, false, true)
            // Picked up in mid-stream: whoever was here before us may have seen the SYN.
            | (New, _, true) => Admission::Continue,
            _ => Admission::Invalid,
        }
    }
}

#[cfg(test)]
mod tests;
