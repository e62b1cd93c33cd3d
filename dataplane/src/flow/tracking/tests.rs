use super::*;
use FlowState::{Closed, Established, FinWait, New, SynReceived, SynSent, TimeWait};

const S: u8 = TCP_SYN;
const A: u8 = TCP_ACK;
const SA: u8 = TCP_SYN | TCP_ACK;
const FA: u8 = TCP_FIN | TCP_ACK;
const R: u8 = TCP_RST;
const PUSH: u8 = 0x08;

/// Runs packets (forward, flags) and returns the state after each.
fn run(packets: &[(bool, u8)]) -> Vec<FlowState> {
    let mut status = Status::FRESH;
    packets
        .iter()
        .map(|&(forward, flags)| {
            status = status.after(forward, Some(flags));
            status.state()
        })
        .collect()
}

const FWD: bool = true;
const REV: bool = false;

#[test]
fn tcp_conversations() {
    type Case<'a> = (&'a str, &'a [(bool, u8)], &'a [FlowState]);
    let cases: &[Case<'_>] = &[
        (
            "open, close by the beginner",
            &[(FWD, S), (REV, SA), (FWD, A), (FWD, FA), (REV, A), (REV, FA), (FWD, A)],
            &[SynSent, SynReceived, Established, FinWait, FinWait, TimeWait, TimeWait],
        ),
        (
            "close by the other side",
            &[(FWD, S), (REV, SA), (FWD, A), (REV, FA), (FWD, FA), (REV, A)],
            &[SynSent, SynReceived, Established, FinWait, TimeWait, TimeWait],
        ),
        ("SYN again", &[(FWD, S), (FWD, S), (REV, SA)], &[SynSent, SynSent, SynReceived]),
        ("refused", &[(FWD, S), (REV, R | A)], &[SynSent, Closed]),
        (
            "aborted",
            &[(FWD, S), (REV, SA), (FWD, A), (FWD, R)],
            &[SynSent, SynReceived, Established, Closed],
        ),
        (
            "simultaneous open",
            &[(FWD, S), (REV, S), (FWD, SA), (REV, SA), (REV, A)],
            &[SynSent, SynReceived, SynReceived, SynReceived, Established],
        ),
        (
            "FIN again is still one FIN",
            &[(FWD, S), (REV, SA), (FWD, A), (FWD, FA), (FWD, FA)],
            &[SynSent, SynReceived, Established, FinWait, FinWait],
        ),
        (
            "picked up in mid-stream",
            &[(FWD, A | PUSH), (FWD, A), (REV, A), (FWD, A)],
            &[New, New, Established, Established],
        ),
        ("mid-stream, reset", &[(FWD, A), (REV, R)], &[New, Closed]),
        (
            "finished stays finished",
            &[(FWD, S), (REV, R | A), (FWD, A), (REV, SA), (FWD, FA)],
            &[SynSent, Closed, Closed, Closed, Closed],
        ),
        (
            "an ACK without SYN does not answer a SYN",
            &[(FWD, S), (REV, A), (FWD, R)],
            &[SynSent, SynSent, Closed],
        ),
        (
            "SYN in an open connection changes nothing",
            &[(FWD, S), (REV, SA), (FWD, A), (FWD, S), (REV, A)],
            &[SynSent, SynReceived, Established, Established, Established],
        ),
    ];
    for (name, packets, states) in cases {
        assert_eq!(&run(packets), states, "{name}");
    }
}

#[test]
fn others_are_established_by_a_reply() {
    let sent = Status::FRESH.after(FWD, None).after(FWD, None);
    assert_eq!((sent.state(), sent.replied()), (New, false));
    let answered = sent.after(REV, None);
    assert_eq!((answered.state(), answered.replied()), (Established, true));
    assert_eq!(answered.after(FWD, None), answered);
}

#[test]
fn any_reply_counts_as_a_reply() {
    let refused = Status::FRESH.after(FWD, Some(S)).after(REV, Some(R | A));
    assert!(refused.replied());
    assert!(!Status::FRESH.after(FWD, Some(S)).replied());
}

#[test]
fn what_is_admitted() {
    use Admission::{Continue, Invalid, Reopen};
    let all = [New, SynSent, SynReceived, Established, FinWait, TimeWait, Closed];
    // One column for each state in this order.
    let table: &[(bool, u8, [Admission; 7])] = &[
        (FWD, S, [Continue, Continue, Continue, Continue, Continue, Reopen, Reopen]),
        (REV, S, [Invalid, Continue, Continue, Invalid, Invalid, Reopen, Reopen]),
        (REV, SA, [Continue, Continue, Continue, Continue, Invalid, Invalid, Invalid]),
        (FWD, SA, [Continue, Invalid, Continue, Invalid, Invalid, Invalid, Invalid]),
        (FWD, A, [Continue; 7]),
        (REV, A | PUSH, [Continue; 7]),
        (REV, FA, [Continue; 7]),
        (FWD, R, [Continue; 7]),
        (REV, R | A, [Continue; 7]),
        (FWD, 0, [Invalid; 7]),
        (FWD, S | TCP_FIN, [Invalid; 7]),
        (REV, S | R, [Invalid; 7]),
        (FWD, TCP_FIN, [Invalid; 7]),
    ];
    for &(forward, flags, expected) in table {
        for (state, expected) in all.into_iter().zip(expected) {
            let status = Status::FRESH.with_state(state);
            let admission = status.admits(forward, Some(flags));
            assert_eq!(admission, expected, "{state:?} forward={forward} flags={flags:#04x}");
            assert_eq!(status.admits(forward, None), Continue);
        }
    }
}

#[test]
fn flags_that_make_sense() {
    let valid: Vec<u8> = (0..0x40).filter(|&flags| tcp_flags_valid(flags)).collect();
    // FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32.
    let expected = [
        0x02, 0x04, 0x0a, 0x0c, 0x10, 0x11, 0x12, 0x14, 0x18, 0x19, 0x1a, 0x1c, 0x22, 0x2a, 0x30,
        0x31, 0x38, 0x39,
    ];
    assert_eq!(valid, expected);
    // Congestion flags (RFC 3168) do not matter.
    assert!((0..0x40).all(|flags| tcp_flags_valid(flags) == tcp_flags_valid(flags | 0xc0)));
}

#[test]
fn every_status_byte_survives_every_packet() {
    for byte in 0..=u8::MAX {
        let status = Status(byte);
        if !status.is_valid() {
            continue;
        }
        for flags in (0..=u8::MAX).map(Some).chain([None]) {
            for forward in [FWD, REV] {
                let next = status.after(forward, flags);
                assert!(next.is_valid());
                assert_eq!(next.is_live(), status.is_live(), "packets neither make nor remove");
                assert!(next.replied() || !status.replied(), "a reply is not forgotten");
            }
        }
    }
}

#[test]
fn timeouts_differ_by_protocol_and_state() {
    let limit = |protocol, state| limit(&Timeouts::default(), protocol, state);
    assert_eq!(limit(TCP, SynSent), 1200);
    assert_eq!(limit(TCP, Established), 864_000);
    assert_eq!(limit(TCP, Closed), 100);
    assert_eq!((limit(UDP, New), limit(UDP, Established)), (300, 1200));
    assert_eq!((limit(ICMP, New), limit(ICMP, Established)), (300, 300));
    assert_eq!(limit(47, New), 6000);
}
