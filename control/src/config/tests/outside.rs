//! `outside:` and `security_groups:`.

use std::sync::Arc;

use super::*;

const OUTSIDE: &str = "\
outside:
  snat_ports: 20000-30000
  max_connections_per_container: 5000
  no_masquerade: [10.9.0.0/16]
  host_services: {tcp: ['169.254.0.3:9090'], udp: ['192.0.2.1:514']}
  dns_servers: [169.254.0.2, 8.8.8.8]
  deny_networks: {always: [169.254.169.254/32], running: [10.0.0.0/8], staging: []}
  outbound_connections: {limit: true, logging: true, burst: 10, rate_per_sec: 5, dry_run: true}
  bandwidth: {rate_kbps: 1000, burst_kb: 2000}
  logging: {asg: true, c2c: true, denied_per_sec: 2, accepted_udp_per_sec: 50, file: /var/log/x}
security_groups:
  - name: public
    rules:
      - {protocol: tcp, destination: 0.0.0.0-9.255.255.255, ports: '80, 443', description: web}
      - {protocol: icmp, destination: 0.0.0.0/0, type: 8, code: -1, log: true}
    running_default: true
  - {name: of-s, rules: [{protocol: udp, destination: 10.0.0.1, ports: 53}], spaces: [s], staging_spaces: [s, t]}
";

#[test]
fn the_way_out_in_full() {
    let network = Network::parse(&format!("{GOOD}{OUTSIDE}")).unwrap();
    let outside = network.outside.unwrap();
    assert_eq!(outside.snat_ports.to_string(), "20000-30000");
    assert_eq!(outside.max_connections_per_container, 5000);
    assert_eq!(outside.no_masquerade[0].to_string(), "10.9.0.0/16");
    let services: Vec<_> = outside
        .services()
        .iter()
        .map(|service| format!("{}:{}/{}", service.address, service.port, service.protocol))
        .collect();
    assert_eq!(
        services,
        ["169.254.0.2:53/tcp", "169.254.0.2:53/udp", "169.254.0.3:9090/tcp", "192.0.2.1:514/udp"]
    );
    let deny = &outside.deny_networks;
    assert_eq!((deny.always.len(), deny.running.len(), deny.staging.len()), (1, 1, 0));
    let limit = outside.outbound_connections.unwrap();
    assert_eq!((limit.burst, limit.per_second, limit.dry_run, limit.log), (10, 5, true, true));
    let rate = outside.bandwidth.unwrap();
    assert_eq!((rate.bits_per_second, rate.burst_bits), (1_024_000, 2_048_000));
    let logging = outside.logging;
    assert_eq!((logging.denied_per_second, logging.accepted_udp_per_second), (2, 50));
    assert!(logging.egress && logging.overlay);
    assert_eq!(outside.log_file, Some("/var/log/x".into()));

    let groups = network.security_groups.unwrap();
    assert_eq!((groups[0].name.as_str(), groups[0].rules.len()), ("public", 2));
    assert_eq!((groups[0].running_default, groups[0].staging_default), (true, false));
    assert_eq!(groups[0].rules[0].traffic.len(), 2);
    assert!(groups[0].rules[1].log);
    assert_eq!((groups[1].spaces.len(), groups[1].staging_spaces.len()), (1, 2));
}

#[test]
fn the_way_out_by_default() {
    let network = Network::parse(GOOD).unwrap();
    assert_eq!((network.outside, network.security_groups), (None, None));
    let network = Network::parse(&format!("{GOOD}outside:\nsecurity_groups:\n")).unwrap();
    let outside = network.outside.unwrap();
    assert_eq!(outside.snat_ports, DEFAULT_SNAT_PORTS);
    assert_eq!((outside.outbound_connections, outside.bandwidth), (None, None));
    assert_eq!((outside.services(), outside.log_file), (vec![], None));
    assert_eq!(
        (outside.logging.denied_per_second, outside.logging.accepted_udp_per_second),
        (1, 100)
    );
    assert_eq!(network.security_groups, Some(Arc::default()));
    // A dry run alone is a limit that refuses nothing.
    let text = format!("{GOOD}outside: {{outbound_connections: {{dry_run: true}}}}\n");
    let limit = Network::parse(&text).unwrap().outside.unwrap().outbound_connections.unwrap();
    assert_eq!((limit.dry_run, limit.burst, limit.per_second), (true, 1000, 100));
}

/// What of the way out is replaced by what, and what is said.
const OUTSIDE_MISTAKES: &[(&str, &str, &[&str])] = &[
    (
        "snat_ports: 20000-30000",
        "snat_ports: 30000-20000",
        &["12:15: snat_ports: port range 30000-20000 ends before it begins; write 20000-30000"],
    ),
    (
        "snat_ports: 20000-30000",
        "snat_ports: 4000-5000",
        &["12:3: snat_ports 4000-5000 contains the tunnel's port 4789; choose ports without it"],
    ),
    (
        "snat_ports:",
        "snat_prots:",
        &["12:3: outside has no key `snat_prots`; did you mean `snat_ports`?"],
    ),
    (
        "[10.9.0.0/16]",
        "[10.9.1.0/16]",
        &["14:19: no_masquerade 10.9.1.0/16 has host bits set; write 10.9.0.0/16"],
    ),
    (
        "169.254.0.3:9090",
        "127.0.0.1:9090",
        &["15:25: host service `127.0.0.1:9090`: addresses of the cell's loopback cannot be \
             reached from containers; give the service another address"],
    ),
    (
        "169.254.0.3:9090",
        "169.254.0.3",
        &["15:25: host service `169.254.0.3`: write it like 169.254.0.3:9090"],
    ),
    ("8.8.8.8", "banana", &["16:30: invalid DNS server `banana`, must be a valid IPv4 address"]),
    (
        "burst: 10,",
        "burst: 0,",
        &["18:61: burst 0 is not in 1 to 4294967295 (0 would let nothing out)"],
    ),
    (", burst_kb: 2000", "", &["19:14: bandwidth needs both rate_kbps and burst_kb, or neither"]),
    ("c2c: true", "c2c: 'on'", &["20:29: c2c is text; it must be true or false"]),
    ("/var/log/x", "x.log", &["20:86: file `x.log` is not an absolute path"]),
    (
        "name: of-s",
        "name: public",
        &["27:12: security group `public` is already in line 22; give it another name"],
    ),
    (
        "    rules:\n",
        "    rules: none\n    ignored:\n",
        &[
            "23:12: rules is text; it must be a list, each item after `- `",
            "24:5: a security group has no key `ignored`; known keys are name, rules, spaces, \
         staging_spaces, running_default, staging_default",
        ],
    ),
    (
        "ports: '80, 443'",
        "ports: '80, 70000'",
        &[
            "24:68: rule 1 of security group `public`: `70000` is not a port; ports are 1 to 65535, \
             e.g. 8080 or 7000-8000",
        ],
    ),
    (
        ", ports: '80, 443'",
        "",
        &[
            "24:9: rule 1 of security group `public`: a rule for tcp needs ports; use 1-65535 for all",
        ],
    ),
    (
        "0.0.0.0-9.255.255.255",
        "9.0.0.0-8.0.0.0",
        &[
            "24:38: rule 1 of security group `public`: address range 9.0.0.0-8.0.0.0 ends before it \
             begins; write 8.0.0.0-9.0.0.0",
        ],
    ),
    (
        "protocol: icmp, destination: 0.0.0.0/0",
        "protocol: icmp, ports: 0, destination: '::/0'",
        &[
            "25:49: rule 2 of security group `public`: destination `::/0` is one of IPv6; containers \
             have IPv4 addresses only",
        ],
    ),
    ("type: 8", "type: 300", &["25:56: type 300 is not in -1 to 255 (-1 for any)"]),
    (
        "protocol: udp",
        "protocol: sctp",
        &[
            "27:37: rule 1 of security group `of-s`: protocol `sctp` is not known; use tcp, udp, icmp or all",
        ],
    ),
    (
        "description: web",
        "descripton: web",
        &[
            "24:79: rule 1 of security group `public` has no key `descripton`; did you mean `description`?",
        ],
    ),
];

#[test]
fn mistakes_in_the_way_out_are_named_with_place_and_cure() {
    let mut wrong = Vec::new();
    for (from, to, expected) in OUTSIDE_MISTAKES {
        assert!(OUTSIDE.contains(from), "{from}");
        let text = format!("{GOOD}{}", OUTSIDE.replacen(from, to, 1));
        let said: Vec<_> =
            Network::parse(&text).unwrap_err().iter().map(ToString::to_string).collect();
        if said != *expected {
            wrong.push(format!("replacing `{from}` by `{to}` gives {said:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn very_many_rules_are_refused() {
    let ports: Vec<_> = (1..=1000).map(|port| port.to_string()).collect();
    let destinations: Vec<_> = (1..=101).map(|last| format!("10.0.0.{last}")).collect();
    let text = format!(
        "{GOOD}security_groups:\n  - name: big\n    rules:\n      - {{protocol: tcp, destination: \
         '{}', ports: '{}'}}\n",
        destinations.join(","),
        ports.join(",")
    );
    let mistakes = Network::parse(&text).unwrap_err();
    assert!(mistakes[0].to_string().contains("have 101000 rules"), "{mistakes:?}");
}
