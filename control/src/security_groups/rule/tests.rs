use proptest::prelude::*;

use super::*;

fn text(protocol: &str, destination: &str, ports: Option<&str>) -> RuleText {
    RuleText {
        protocol: protocol.into(),
        destination: destination.into(),
        ports: ports.map(Into::into),
        ..RuleText::default()
    }
}

fn icmp(kind: Option<i64>, code: Option<i64>) -> RuleText {
    RuleText { kind, code, ..text("icmp", "0.0.0.0/0", None) }
}

/// A rule in one line.
fn said(rule: &RuleText) -> String {
    match rule.parse() {
        Ok(spec) => {
            let of = |range: &AddressRange| format!("{}-{}", range.first, range.last);
            let destinations: Vec<_> = spec.destinations.iter().map(of).collect();
            let traffic: Vec<_> = spec
                .traffic
                .iter()
                .map(|traffic| match traffic {
                    Traffic::All => "all".into(),
                    Traffic::Tcp(ports) => format!("tcp {ports}"),
                    Traffic::Udp(ports) => format!("udp {ports}"),
                    Traffic::Icmp { kind, code } => format!("icmp {kind:?} {code:?}"),
                })
                .collect();
            format!("{} to {}", traffic.join(","), destinations.join(","))
        }
        Err(e) => e.to_string(),
    }
}

#[test]
fn every_form_of_a_destination() {
    for (destination, expected) in [
        ("10.0.0.1", "all to 10.0.0.1-10.0.0.1"),
        ("10.1.2.3/8", "all to 10.0.0.0-10.255.255.255"),
        ("0.0.0.0/0", "all to 0.0.0.0-255.255.255.255"),
        ("10.0.0.1-10.0.0.9", "all to 10.0.0.1-10.0.0.9"),
        (
            "10.0.0.1,10.2.0.0/16,10.3.0.1-10.3.0.2",
            "all to 10.0.0.1-10.0.0.1,10.2.0.0-10.2.255.255,10.3.0.1-10.3.0.2",
        ),
        ("", "it has no destination; use 0.0.0.0/0 for everywhere"),
        (
            "10.0.0.9-10.0.0.1",
            "address range 10.0.0.9-10.0.0.1 ends before it begins; write 10.0.0.1-10.0.0.9",
        ),
        (
            "2001:db8::1",
            "destination `2001:db8::1` is one of IPv6; containers have IPv4 addresses only",
        ),
        (
            "2001:db8::/32",
            "destination `2001:db8::/32` is one of IPv6; containers have IPv4 addresses only",
        ),
        ("::1-::2", "destination `::1-::2` is one of IPv6; containers have IPv4 addresses only"),
    ] {
        assert_eq!(said(&text("all", destination, None)), expected);
    }
    for destination in [
        "10.0.0.1, 10.0.0.2",
        "10.0.0.1,",
        "10.0.0.0/33",
        "10.0.0.01",
        "example.com",
        "10.0.0.1-",
        "1-2-3",
    ] {
        let told = said(&text("all", destination, None));
        assert!(told.contains("is not an IPv4 address, a network or a range"), "{told}");
    }
}

#[test]
fn every_form_of_ports() {
    for (ports, expected) in [
        (Some("80"), "tcp 80"),
        (Some("80,443,8000-9000"), "tcp 80,tcp 443,tcp 8000-9000"),
        (Some(" 80 , 443 - 445 "), "tcp 80,tcp 443-445"),
        (Some("1-65535"), "tcp 1-65535"),
    ] {
        let to = " to 10.0.0.1-10.0.0.1";
        assert_eq!(said(&text("tcp", "10.0.0.1", ports)), format!("{expected}{to}"));
        let udp = expected.replace("tcp", "udp");
        assert_eq!(said(&text("udp", "10.0.0.1", ports)), format!("{udp}{to}"));
    }
    let not_a_port = |port: &str| {
        format!("`{port}` is not a port; ports are 1 to 65535, e.g. 8080 or 7000-8000")
    };
    for (protocol, ports, expected) in [
        ("tcp", Some("0"), not_a_port("0")),
        ("tcp", Some("70000"), not_a_port("70000")),
        ("udp", Some("80,,81"), not_a_port("")),
        ("udp", Some("http"), not_a_port("http")),
        (
            "tcp",
            Some("9000-8000"),
            "port range 9000-8000 ends before it begins; write 8000-9000".into(),
        ),
        ("tcp", None, "a rule for tcp needs ports; use 1-65535 for all".into()),
        ("udp", Some(""), "a rule for udp needs ports; use 1-65535 for all".into()),
        (
            "icmp",
            Some("80"),
            "a rule for icmp cannot have ports; remove them, or use tcp or udp".into(),
        ),
        (
            "all",
            Some("80"),
            "a rule for all cannot have ports; remove them, or use tcp or udp".into(),
        ),
    ] {
        assert_eq!(said(&text(protocol, "10.0.0.1", ports)), expected);
    }
    assert_eq!(said(&text("all", "10.0.0.1", Some(" "))), "all to 10.0.0.1-10.0.0.1");
}

#[test]
fn types_and_codes() {
    let everywhere = "to 0.0.0.0-255.255.255.255";
    for (kind, code, expected) in [
        (None, None, "Some(0) Some(0)"),
        (Some(8), None, "Some(8) Some(0)"),
        (Some(3), Some(4), "Some(3) Some(4)"),
        (Some(-1), Some(-1), "None None"),
        (Some(255), Some(255), "None None"),
        (Some(3), Some(-1), "Some(3) None"),
        (Some(-1), Some(3), "None None"),
        (Some(-1), None, "None None"),
    ] {
        assert_eq!(said(&icmp(kind, code)), format!("icmp {expected} {everywhere}"));
    }
    assert_eq!(said(&icmp(Some(256), None)), "ICMP type 256 is not in 0 to 255; use -1 for any");
    assert_eq!(said(&icmp(Some(8), Some(-2))), "ICMP code -2 is not in 0 to 255; use -1 for any");
    let with_type = |kind, code| RuleText { kind, code, ..text("tcp", "10.0.0.1", Some("80")) };
    // Programs that write every key write zeros.
    assert_eq!(said(&with_type(Some(0), Some(0))), "tcp 80 to 10.0.0.1-10.0.0.1");
    let told = said(&with_type(None, Some(3)));
    assert_eq!(told, "a rule for tcp cannot have an ICMP code; remove it, or use icmp");
}

#[test]
fn protocols() {
    for (protocol, expected) in [
        ("TCP", "protocol `TCP` is not known; use tcp, udp, icmp or all"),
        ("", "it has no protocol; use tcp, udp, icmp or all"),
        ("6", "protocol `6` is not known; use tcp, udp, icmp or all"),
        ("icmpv6", "protocol icmpv6 is one of IPv6; containers have IPv4 addresses only, use icmp"),
    ] {
        assert_eq!(said(&text(protocol, "10.0.0.1", Some("80"))), expected);
    }
}

#[test]
fn answers_of_policy_servers_are_read() {
    let json = r#"[
        {"protocol":"tcp","destination":"10.0.0.0/8","ports":"443","type":0,"code":0,"description":"","log":true},
        {"protocol":"icmp","destination":"0.0.0.0/0","ports":"","type":-1,"code":-1,"log":false},
        {"protocol":"all","destination":"10.9.9.9"}
    ]"#;
    let rules: Vec<RuleText> = serde_json::from_str(json).unwrap();
    let specs: Vec<_> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    assert_eq!((specs[0].log, specs[1].log), (true, false));
    assert_eq!(specs[1].traffic, [Traffic::Icmp { kind: None, code: None }]);
    assert_eq!(said(&rules[2]), "all to 10.9.9.9-10.9.9.9");
}

#[test]
fn mistakes_know_their_field() {
    let field = |rule: &RuleText| rule.parse().unwrap_err().field();
    assert_eq!(field(&text("x", "10.0.0.1", None)), Field::Protocol);
    assert_eq!(field(&text("tcp", "x", None)), Field::Destination);
    assert_eq!(field(&text("tcp", "10.0.0.1", None)), Field::Ports);
    assert_eq!(field(&icmp(Some(300), None)), Field::Type);
    assert_eq!(field(&icmp(None, Some(300))), Field::Code);
}

#[test]
fn gardens_rules() {
    let net = AddressRange { first: [10, 0, 0, 1].into(), last: [10, 0, 0, 9].into() };
    let ports = PortRange { first: 80, last: 90 };
    let rule = |protocol, ports: &[PortRange], icmp| NetOutRule {
        protocol,
        networks: vec![net],
        ports: ports.to_vec(),
        icmp,
        log: true,
    };
    let control = |kind, code| Some(IcmpControl { kind, code });
    let traffic = |rule: &NetOutRule| EgressSpec::from_garden(rule).map(|spec| spec.traffic);
    assert_eq!(traffic(&rule(0, &[], None)), Ok(vec![Traffic::All]));
    assert_eq!(traffic(&rule(1, &[ports], None)), Ok(vec![Traffic::Tcp(ports)]));
    assert_eq!(traffic(&rule(2, &[ports], None)), Ok(vec![Traffic::Udp(ports)]));
    assert_eq!(
        traffic(&rule(3, &[], control(8, Some(0)))),
        Ok(vec![Traffic::Icmp { kind: Some(8), code: Some(0) }])
    );
    assert_eq!(
        traffic(&rule(3, &[], control(255, Some(255)))),
        Ok(vec![Traffic::Icmp { kind: None, code: None }])
    );
    // What the kernel stack leaves out, and what it fails of.
    for left_out in [
        rule(1, &[], None),
        rule(3, &[], None),
        rule(3, &[], control(8, None)),
        rule(3, &[ports], control(8, Some(0))),
        rule(0, &[ports], None),
    ] {
        assert!(EgressSpec::from_garden(&left_out).unwrap_err().is_left_out(), "{left_out:?}");
    }
    let inverted = NetOutRule {
        networks: vec![AddressRange { first: net.last, last: net.first }],
        ..rule(0, &[], None)
    };
    for wrong in [
        inverted,
        rule(4, &[], None),
        rule(1, &[PortRange { first: 0, last: 1 }], None),
        rule(1, &[PortRange { first: 2, last: 1 }], None),
    ] {
        assert!(!EgressSpec::from_garden(&wrong).unwrap_err().is_left_out(), "{wrong:?}");
    }
    let spec = EgressSpec::from_garden(&rule(1, &[ports, ports], None)).unwrap();
    let rules: Vec<_> = spec.rules(RuleId(7)).collect();
    assert_eq!(rules.len(), 2);
    assert_eq!((rules[0].id, rules[0].first, rules[0].last), (RuleId(7), net.first, net.last));
    assert!(rules[0].log);
}

proptest! {
    #[test]
    fn no_text_panics(
        protocol in prop::sample::select(vec!["tcp", "udp", "icmp", "all"]),
        destination in "[0-9a-f./:, -]{0,30}",
        ports in prop::option::of("[0-9, -]{0,20}"),
        kind in prop::option::of(any::<i64>()),
        code in prop::option::of(-2..300_i64),
    ) {
        let rule = RuleText { kind, code, ..text(protocol, &destination, ports.as_deref()) };
        if let Ok(spec) = rule.parse() {
            for rule in spec.rules(RuleId(1)) {
                prop_assert!(rule.first <= rule.last);
                if let Traffic::Tcp(ports) | Traffic::Udp(ports) = rule.traffic {
                    prop_assert!(0 < ports.first && ports.first <= ports.last);
                }
            }
        }
    }
}
