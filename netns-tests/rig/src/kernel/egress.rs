//! Rules of security groups as iptables matches (contract section 7.6).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::outside::GroupRule;

/// What the rules become, in their own order and without repetition: the matches of each iptables
/// rule, and whether it logs. A rule that cannot be converted becomes none.
pub(super) fn conversion<'a>(
    rules: impl IntoIterator<Item = &'a GroupRule>,
) -> Vec<(String, bool)> {
    let mut converted: Vec<(String, bool)> = Vec::new();
    for rule in rules {
        for range in rule.destination.split(',').filter_map(addresses) {
            for matches in traffic(rule, &range) {
                let entry = (matches, rule.log);
                if !converted.contains(&entry) {
                    converted.push(entry);
                }
            }
        }
    }
    converted
}

fn traffic(rule: &GroupRule, range: &str) -> Vec<String> {
    let GroupRule { protocol, ports, icmp, .. } = rule;
    match *protocol {
        "tcp" | "udp" => {
            let ports = ports.as_deref().unwrap_or_default().split(',').filter_map(port_range);
            ports
                .map(|ports| {
                    format!(
                        "-p {protocol} -m iprange --dst-range {range} -m {protocol} --dport {ports}"
                    )
                })
                .collect()
        }
        "icmp" => {
            // Unsigned bytes, so that -1 is 255; a rule without a type means 0.
            let (kind, code) = icmp.unwrap_or((0, 0));
            let [kind, code] = [kind & 0xff, code & 0xff];
            vec![format!(
                "-p icmp -m iprange --dst-range {range} -m icmp --icmp-type {kind}/{code}"
            )]
        }
        _ => vec![format!("-m iprange --dst-range {range}")],
    }
}

/// An address, network or range of addresses, as the `iprange` match has it.
fn addresses(text: &str) -> Option<String> {
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (first.parse::<Ipv4Addr>().ok()?, last.parse::<Ipv4Addr>().ok()?)
    } else if let Ok(network) = text.parse::<Ipv4Net>() {
        (network.network(), network.broadcast())
    } else {
        let address = text.parse().ok()?;
        (address, address)
    };
    Some(format!("{first}-{last}"))
}

/// A port or range of ports, as the `tcp` and `udp` matches have it.
fn port_range(text: &str) -> Option<String> {
    let (first, last) = text.trim().split_once('-').unwrap_or((text.trim(), text.trim()));
    let (first, last) = (first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?);
    Some(if first == last { first.to_string() } else { format!("{first}:{last}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_become_one_match_each() {
        let rules = [
            GroupRule::tcp("10.0.11.0/24", "80,443, 8000-9000"),
            GroupRule::udp("1.1.1.1,2.2.2.2-2.2.2.9", "53"),
            GroupRule::icmp("5.5.5.5-6.6.6.6", 8, 0).logged(),
            GroupRule::icmp("5.5.5.5", -1, -1),
            GroupRule::all("3.3.3.3-4.4.4.4"),
            GroupRule::all("3.3.3.3-4.4.4.4"),
        ];
        let expected = [
            ("-p tcp -m iprange --dst-range 10.0.11.0-10.0.11.255 -m tcp --dport 80", false),
            ("-p tcp -m iprange --dst-range 10.0.11.0-10.0.11.255 -m tcp --dport 443", false),
            ("-p tcp -m iprange --dst-range 10.0.11.0-10.0.11.255 -m tcp --dport 8000:9000", false),
            ("-p udp -m iprange --dst-range 1.1.1.1-1.1.1.1 -m udp --dport 53", false),
            ("-p udp -m iprange --dst-range 2.2.2.2-2.2.2.9 -m udp --dport 53", false),
            ("-p icmp -m iprange --dst-range 5.5.5.5-6.6.6.6 -m icmp --icmp-type 8/0", true),
            ("-p icmp -m iprange --dst-range 5.5.5.5-5.5.5.5 -m icmp --icmp-type 255/255", false),
            ("-m iprange --dst-range 3.3.3.3-4.4.4.4", false),
        ];
        assert_eq!(conversion(&rules), expected.map(|(text, log)| (text.to_owned(), log)));
    }
}
