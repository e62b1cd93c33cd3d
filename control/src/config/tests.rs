//! A table of files and what is said about them.

use sarcenet_dataplane_api::Timeouts;

use super::*;

mod follow;
mod outside;

const GOOD: &str = "\
overlay: 10.255.0.0/16
cells:
  - {name: cell1, underlay: 10.77.0.11, subnet: 10.255.55.0/24}
  - {name: cell2, underlay: 10.77.0.12, subnet: 10.255.62.0/24}
apps:
  - {id: app-a, tag: 1}
  - {id: app-b, tag: 2}
policies:
  - {from: app-a, to: app-b, protocol: tcp, ports: 8080}
  - {from: app-b, to: app-a, protocol: udp, ports: 7000-8000}
";

#[test]
fn a_good_file() {
    let network = Network::parse(GOOD).unwrap();
    assert_eq!(network.overlay.to_string(), "10.255.0.0/16");
    assert_eq!(network.cell("cell2").unwrap().subnet.to_string(), "10.255.62.0/24");
    assert_eq!(network.tag("app-b"), Some(2));
    assert_eq!(network.policies[1].to_string(), "app-b to app-a udp 7000-8000");
    assert_eq!((network.vni, network.port, network.mtu), (1, 4789, None));
    assert_eq!(network.revoke, Revoke::Drain);
    assert_eq!(network.uplink, UplinkMode::Auto);
}

#[test]
fn all_options() {
    let text =
        format!("{GOOD}vni: 0xffffff\nport: 4790\nmtu: 1400\nrevoke: immediate\nuplink: udp\n");
    let network = Network::parse(&text).unwrap();
    assert_eq!((network.vni, network.port, network.mtu), (0xff_ffff, 4790, Some(1400)));
    assert_eq!(network.revoke, Revoke::Immediate);
    assert_eq!(network.uplink, UplinkMode::Udp);
}

#[test]
fn health_and_metrics_are_told_unless_nobody_wants_them() {
    for (line, expected) in [
        ("", Some("127.0.0.1:23955")),
        ("status: 0.0.0.0:9999\n", Some("0.0.0.0:9999")),
        ("status: null\n", None),
    ] {
        let network = Network::parse(&format!("{GOOD}{line}")).unwrap();
        assert_eq!(network.status, expected.map(|address| address.parse().unwrap()));
    }
    let mistakes = Network::parse(&format!("{GOOD}status: here\n")).unwrap_err();
    assert!(mistakes[0].message.contains("status `here` is not an address"), "{mistakes:?}");
}

#[test]
fn every_uplink_mode() {
    for mode in UplinkMode::ALL {
        let network = Network::parse(&format!("{GOOD}uplink: {mode}\n")).unwrap();
        assert_eq!(network.uplink, mode);
    }
}

#[test]
fn apps_and_policies_may_be_absent() {
    let text = "overlay: 10.255.0.0/16\ncells: []\napps:\npolicies:\n";
    assert_eq!(Network::parse(text).unwrap().policies, []);
}

/// The good file with the first `from` replaced, and what is said.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    (
        "overlay:",
        "overaly:",
        &[
            "1:1: the network file has no `overlay`; add it, e.g. `overlay: 10.255.0.0/16`",
            "1:1: the network file has no key `overaly`; did you mean `overlay`?",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.255.62.128/25",
        &[
            "4:49: subnet 10.255.62.0/24 overlaps 10.255.62.128/25 of line 3; subnets of cells must be disjoint",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.255.62.0/23",
        &[
            "4:49: subnet 10.255.62.0/24 overlaps 10.255.62.0/23 of line 3; subnets of cells must be disjoint",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.255.55.7/24",
        &["3:49: subnet 10.255.55.7/24 has host bits set; write 10.255.55.0/24"],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.254.55.0/24",
        &[
            "3:49: subnet 10.254.55.0/24 is not a part of the overlay 10.255.0.0/16; choose one inside it",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.255.0.0/16",
        &[
            "3:49: subnet 10.255.0.0/16 is not a part of the overlay 10.255.0.0/16; choose one inside it",
            "4:49: subnet 10.255.62.0/24 overlaps 10.255.0.0/16 of line 3; subnets of cells must be disjoint",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.255.0.0/24",
        &[
            "3:49: subnet 10.255.0.0/24 is the first block of the overlay 10.255.0.0/16, whose base \
         address no cell can carry; choose the next one",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: 10.255.55.0/31",
        &[
            "3:49: subnet 10.255.55.0/31 has no room for containers; use /30 or shorter, normally /24",
        ],
    ),
    (
        "subnet: 10.255.55.0/24",
        "subnet: fifty-five",
        &["3:49: subnet `fifty-five` is not an IPv4 network; write it like 10.255.1.0/24"],
    ),
    (
        "name: cell1",
        "name: cell2",
        &["4:12: cell `cell2` is already in line 3; give it another name"],
    ),
    ("name: cell1, ", "", &["3:5: a cell has no `name`; add it, e.g. `name: cell1`"]),
    (
        "underlay: 10.77.0.12",
        "underlay: 10.77.0.11",
        &[
            "4:29: underlay 10.77.0.11 already belongs to the cell in line 3; every cell needs its own",
        ],
    ),
    (
        "underlay: 10.77.0.12",
        "underlay: 10.255.0.9",
        &[
            "4:29: underlay 10.255.0.9 lies inside the overlay 10.255.0.0/16; tunnel packets would be \
         routed into the tunnel; use the cell's address on the physical network",
        ],
    ),
    (
        "underlay: 10.77.0.12",
        "underlay: 10.77.0.12/24",
        &[
            "4:29: underlay `10.77.0.12/24` is not the cell's own IPv4 address, e.g. 10.0.0.11, without \
         a prefix length",
        ],
    ),
    (
        "tag: 2",
        "tag: 1",
        &["7:22: tag 1 already belongs to the app in line 6; every app needs its own"],
    ),
    (
        "tag: 1",
        "tag: 0",
        &[
            "6:22: tag 0 is not in 1 to 65535 (the 16 bits of the tunnel header, without 0, which means \
         no tag)",
        ],
    ),
    (
        "tag: 1",
        "tag: 65536",
        &[
            "6:22: tag 65536 is not in 1 to 65535 (the 16 bits of the tunnel header, without 0, which \
         means no tag)",
        ],
    ),
    ("tag: 1", "tag: one", &["6:22: tag is text; it must be a number in 1 to 65535"]),
    (
        "tag: 1",
        "tga: 1",
        &[
            "6:5: an app has no `tag`; add it, e.g. `tag: 1`",
            "6:17: an app has no key `tga`; did you mean `tag`?",
        ],
    ),
    ("tag: 1", "tag: 1, tag: 3", &["6:25: `tag` is already given in line 6; keep one of them"]),
    (
        "id: app-b",
        "id: app-a",
        &[
            "7:10: app `app-a` is already in line 6; remove one of them",
            "9:23: no app is named `app-b`; did you mean `app-a`?",
            "10:12: no app is named `app-b`; did you mean `app-a`?",
        ],
    ),
    (
        "id: app-b",
        "id: 17",
        &[
            "7:10: the id of an app reads as a number; put it in quotes to make it text",
            "9:23: no app is named `app-b`; did you mean `app-a`?",
            "10:12: no app is named `app-b`; did you mean `app-a`?",
        ],
    ),
    (
        "id: app-b",
        "id: 'app b'",
        &[
            "7:10: `app b` cannot be the id of an app; use 1 to 200 characters without spaces",
            "9:23: no app is named `app-b`; did you mean `app-a`?",
            "10:12: no app is named `app-b`; did you mean `app-a`?",
        ],
    ),
    (
        "to: app-b",
        "to: frontend",
        &["9:23: no app is named `frontend`; add `- {id: frontend, tag: ...}` under `apps:`"],
    ),
    ("protocol: tcp", "protocol: icmp", &["9:40: protocol `icmp` is not known; use tcp or udp"]),
    (
        "ports: 8080",
        "ports: 0",
        &["9:52: `0` is not a port; ports are 1 to 65535, e.g. 8080 or 7000-8000"],
    ),
    (
        "ports: 8080",
        "ports: 9000-8000",
        &["9:52: port range 9000-8000 ends before it begins; write 8000-9000"],
    ),
    ("ports: 8080", "ports: [80, 81]", &["9:52: ports is a list; write 8080 or 7000-8000"]),
    (
        "policies:\n",
        "policies:\n  - {from: app-a, to: app-b, protocol: tcp, ports: 8080}\n",
        &["10:5: the same policy is already in line 9; remove one of them"],
    ),
    (
        "policies:\n",
        "vni: 16777216\npolicies:\n",
        &["8:6: vni 16777216 is not in 0 to 16777215 (24 bits)"],
    ),
    (
        "policies:\n",
        "mtu: 100\nport: 0\nrevoke: never\nuplink: fast\npolicies:\n",
        &[
            "8:6: mtu 100 is not in 576 to 65485 (bytes of the largest inner IP packet: the underlay's \
         MTU - 50)",
            "9:7: port 0 is not in 1 to 65535 (a UDP port)",
            "10:9: revoke `never` is not known; use drain (established conversations live on) or \
         immediate",
            "11:9: uplink `fast` is not known; use auto (the dataplane tries what is best), udp, \
         tunnel-gso or xdp",
        ],
    ),
    (
        "apps:\n",
        "apps: none\nsapp:\n",
        &[
            "5:7: apps is text; it must be a list, each item after `- `",
            "6:1: the network file has no key `sapp`; known keys are overlay, cells, apps, policies, vni, port, mtu, revoke, uplink, outside, security_groups, timeouts, half_open_percent, open_overlay, control, status, collect_after",
            "10:12: no app is named `app-a`; add `- {id: app-a, tag: ...}` under `apps:`",
            "10:23: no app is named `app-b`; add `- {id: app-b, tag: ...}` under `apps:`",
            "11:12: no app is named `app-b`; add `- {id: app-b, tag: ...}` under `apps:`",
            "11:23: no app is named `app-a`; add `- {id: app-a, tag: ...}` under `apps:`",
        ],
    ),
];

#[test]
fn mistakes_are_named_with_place_and_cure() {
    let mut wrong = Vec::new();
    for (from, to, expected) in MISTAKES {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let said: Vec<_> =
            Network::parse(&text).unwrap_err().iter().map(ToString::to_string).collect();
        if said != *expected {
            wrong.push(format!("replacing `{from}` by `{to}` gives {said:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_that_are_no_network() {
    for (text, expected) in [
        (
            "",
            "1:1: the network file has no `cells`; add it, e.g. `cells: [{name: cell1, underlay: 10.0.0.11, subnet: 10.255.1.0/24}]`",
        ),
        (
            "- a\n",
            "1:1: the network file is a list; it must be a map with overlay, cells, apps, policies, vni, port, mtu, revoke, uplink, outside, security_groups, timeouts, half_open_percent, open_overlay, control, status, collect_after",
        ),
    ] {
        assert_eq!(Network::parse(text).unwrap_err()[0].to_string(), expected);
    }
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.yaml");
    let missing = Network::load(&path).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("cannot read {}: ", path.display())), "{missing}");
    std::fs::write(&path, GOOD.replace("tag: 1", "tag: 0")).unwrap();
    let lines = Network::load(&path).unwrap_err().lines();
    assert!(lines[0].starts_with(&format!("{}:6:22: tag 0", path.display())), "{lines:?}");
}

#[test]
fn an_unknown_cell_is_explained() {
    let network = Network::parse(GOOD).unwrap();
    assert_eq!(
        network.no_such_cell("cell3"),
        "no cell is named `cell3`; did you mean `cell1`?; add it under `cells:` or start the agent \
         with one of: cell1, cell2"
    );
}

proptest::proptest! {
    /// Any line of the good file may be cut, doubled or garbled: an answer comes, never a panic.
    #[test]
    fn damaged_files_are_answered(line in 0_usize..10, cut in 0_usize..60, junk in "[-:,{}\\[\\]#'\" a0]{0,6}") {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        let at = cut.min(lines[line].len());
        lines[line].insert_str(at, &junk);
        let _ = Network::parse(&lines.join("\n"));
    }
}

#[test]
fn timeouts_and_half_open_conversations() {
    assert_eq!(Network::parse(GOOD).unwrap().tracking, Tracking::default());
    let text = format!(
        "{GOOD}timeouts: {{tcp_established: 432000, udp_new: 5}}\nhalf_open_percent: 100\n"
    );
    let tracking = Network::parse(&text).unwrap().tracking;
    let timeouts = Timeouts { tcp_established: 432_000, udp_new: 5, ..Timeouts::default() };
    assert_eq!(tracking, Tracking { timeouts, half_open_percent: 100 });

    let line = GOOD.lines().count() + 1;
    for (text, mistake) in [
        ("timeouts: {udp_new: 0}", "1:21: udp_new 0 is not in 1 to 2592000 (seconds of silence)"),
        (
            "timeouts: {icmp: 2592001}",
            "1:18: icmp 2592001 is not in 1 to 2592000 (seconds of silence)",
        ),
        ("timeouts: {icmp: 5s}", "1:18: icmp is text; it must be a number in 1 to 2592000"),
        ("timeouts: {udp_nwe: 5}", "1:12: timeouts has no key `udp_nwe`; did you mean `udp_new`?"),
        (
            "half_open_percent: 0",
            "1:20: half_open_percent 0 is not in 1 to 100 (part of the flow table for one \
             container's unanswered conversations)",
        ),
    ] {
        let mistakes = Network::parse(&format!("{GOOD}{text}\n")).unwrap_err();
        let shown: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [mistake.replacen('1', &line.to_string(), 1)]);
    }
}

#[test]
fn when_containers_are_collected() {
    let read = |text: &str| Network::parse(&format!("{GOOD}{text}\n")).map(|n| n.collect_after);
    for (text, seconds) in [
        ("", Some(60)),
        ("collect_after: 5", Some(5)),
        ("collect_after: 0", None),
        ("collect_after: null", None),
    ] {
        assert_eq!(read(text).unwrap(), seconds.map(Duration::from_secs), "{text}");
    }
    let line = GOOD.lines().count() + 1;
    let told = read("collect_after: 86401").unwrap_err();
    let expected = format!(
        "{line}:16: collect_after 86401 is not in 0 to 86400 (seconds from a container's end until \
         it is removed; 0 for never)"
    );
    assert_eq!(told[0].to_string(), expected);
}
