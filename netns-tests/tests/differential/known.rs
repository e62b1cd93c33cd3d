//! Differences between a kernel cell and a Sarcenet cell that are meant. The reasons are in
//! `docs/differences.md`, under the headings that are named here.

use sarcenet_netns_tests::TUNNEL_PORT;
use sarcenet_rig::outside::network;

use crate::packet::{ACK, Content, SYN};
use crate::probe::{Place, Probe};

const SILENCE: &str = "silence";
const NO_WAY_ROUND: &str = "No way round by the own cell";

/// The heading under which a difference is explained, if one does: what became of a packet on the
/// kernel cell and on the other one.
pub(crate) fn reason(probe: &Probe, [kernel, ours]: &[String; 2]) -> Option<&'static str> {
    let Probe { from, to, content } = *probe;
    let refused = |fate: &str| fate.starts_with("ICMP 3/3 from ") && !fate.contains(';');
    let stray = match content {
        Content::Tcp(_, flags) => flags != SYN && flags != ACK,
        Content::Icmp(kind, _) => !matches!(kind, 8 | 13 | 15 | 17),
        Content::Udp(_) | Content::Other(_) => false,
    };
    let reset = kernel.starts_with("reset from ");
    let named = matches!(content, Content::Tcp(..) | Content::Udp(_) | Content::Icmp(8, _));
    let translated = match to {
        Place::Outside(address) => !network::OWN_ADDRESS.contains(&address),
        _ => false,
    };
    if refused(kernel) && refused(ours) {
        return Some("Refusals come from the sender's cell");
    }
    let is_answer = matches!(content, Content::Icmp(0 | 14 | 16 | 18, _));
    if stray && (refused(kernel) || reset || is_answer) && ours == SILENCE {
        return Some("Strays are not answered");
    }
    if matches!((from, to), (Place::Container(_), Place::Remote(_)))
        && matches!(content, Content::Tcp(_, ACK))
        && ours == SILENCE
    {
        return Some("Connections are not taken up towards another cell");
    }
    if matches!(to, Place::Outside(_) | Place::OtherCell)
        && matches!(content, Content::Icmp(kind, code) if (kind, code) != (8, 0))
        && refused(ours)
    {
        return Some("Of ICMP only echo leaves");
    }
    if to == Place::OtherCell && content == Content::Udp(TUNNEL_PORT) && refused(ours) {
        return Some("The tunnels of other cells");
    }
    if !named && kernel == SILENCE && refused(ours) {
        return Some("Refusals of other protocols");
    }
    if translated
        && kernel.contains("arrives at outside from itself")
        && !ours.contains("arrives at outside from itself")
    {
        return Some("Nothing leaves untranslated");
    }
    if matches!((from, to), (Place::Container(_), Place::Cell))
        && kernel.contains("arrives at container from itself translated")
        && refused(ours)
    {
        return Some(NO_WAY_ROUND);
    }
    None
}

/// The same for a connection to a port, and the container that the port leads to if it is mapped.
pub(crate) fn about_connection(
    probe: &Probe,
    behind: Option<Place>,
    [kernel, ours]: &[String; 2],
) -> Option<&'static str> {
    let behind = behind?;
    let round = matches!((probe.from, probe.to), (Place::Container(_), Place::Cell));
    // A container does not take packets that come back to it from its own address.
    let there = if behind == probe.from { "timed out" } else { "greeted as container" };
    (round && kernel == there && ours == "refused").then_some(NO_WAY_ROUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What matters to anybody is no known difference.
    #[test]
    fn verdicts_are_never_meant_to_differ() {
        let outside = Place::Outside(network::PLAIN.network());
        let from = Place::Container(0);
        for content in [Content::Tcp(80, SYN), Content::Udp(53), Content::Icmp(8, 0)] {
            let probe = Probe { from, to: outside, content };
            let admitted = "arrives at outside from cell; reset from target";
            for (kernel, ours) in [
                (admitted, SILENCE),
                (admitted, "ICMP 3/3 from cell"),
                ("ICMP 3/3 from cell", admitted),
                ("ICMP 3/3 from cell", SILENCE),
                (admitted, "arrives at outside from itself"),
            ] {
                let fates = [kernel, ours].map(str::to_owned);
                assert_eq!(reason(&probe, &fates), None, "{content:?} {fates:?}");
            }
        }
    }

    /// A connection is refused where the kernel has a way round, and nowhere else.
    #[test]
    fn connections_are_never_meant_to_differ_but_by_the_own_cell() {
        let probe = |from, to| Probe { from, to, content: Content::Tcp(80, SYN) };
        let fates = |kernel: &str, ours: &str| [kernel, ours].map(str::to_owned);
        let round = probe(Place::Container(0), Place::Cell);
        let from_outside = probe(Place::Outside(network::PLAIN.network()), Place::Cell);
        let (itself, another) = (Some(Place::Container(0)), Some(Place::Container(1)));
        let greeted = fates("greeted as container", "refused");
        let silent = fates("timed out", "refused");
        assert_eq!(about_connection(&round, another, &greeted), Some(NO_WAY_ROUND));
        assert_eq!(about_connection(&round, itself, &silent), Some(NO_WAY_ROUND));
        for (probe, behind, fates) in [
            (&round, None, &greeted),
            (&from_outside, another, &greeted),
            (&round, itself, &greeted),
            (&round, None, &silent),
            (&round, another, &silent),
            (&from_outside, itself, &silent),
        ] {
            assert_eq!(about_connection(probe, behind, fates), None, "{behind:?} {fates:?}");
        }
        for (kernel, ours) in [
            ("refused", "greeted as container"),
            ("refused", "timed out"),
            ("greeted as container", "timed out"),
        ] {
            for behind in [itself, another] {
                assert_eq!(
                    about_connection(&round, behind, &fates(kernel, ours)),
                    None,
                    "{kernel}"
                );
            }
        }
    }
}
