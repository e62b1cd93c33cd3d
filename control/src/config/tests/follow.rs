//! `control:`: what comes from servers.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::config::{FollowSpec, PolicyServerSpec};
use crate::paths::Root;

const LEAST: &str = "overlay: 10.255.0.0/16\ncontrol: {underlay: 10.77.0.11}\n";

const FULL: &str = "\
overlay: 172.16.0.0/12
control:
  underlay: 10.77.0.11
  certs: {ca: /ca.pem, cert: /cell.pem, key: /cell.key}
  leases: {url: 'https://10.77.1.1:4103', interval: 1, timeout: 2, partition_tolerance: 60,
           block_prefix: 20, single_ip: true}
  policies: {url: 'https://10.77.1.1:4003/', interval: 3, timeout: 4, watch: false,
             overlay_ingress: true}
  security_groups: {interval: 5}
  network_info: 127.0.0.1:0
  force: 127.0.0.1:0
";

fn control(text: &str) -> FollowSpec {
    Network::parse(text).unwrap().control.unwrap()
}

fn policy_server(text: &str) -> PolicyServerSpec {
    control(text).policy_server.unwrap()
}

#[test]
fn defaults_are_those_of_cloud_foundry() {
    let (spec, policies) = (control(LEAST), policy_server(LEAST));
    assert_eq!(spec.underlay.to_string(), "10.77.0.11");
    assert_eq!(spec.leases.url, "https://silk-controller.service.cf.internal:4103");
    assert_eq!(policies.url, "https://policy-server.service.cf.internal:4003");
    let seconds =
        [spec.leases.interval, spec.leases.timeout, policies.interval].map(|time| time.as_secs());
    assert_eq!(seconds, [30, 5, 5]);
    assert_eq!(spec.leases.partition_tolerance, Duration::from_hours(168));
    assert!(policies.watch && !spec.leases.single_ip && policies.security_groups.is_none());
    assert!(!policies.routers);
    let listen =
        [spec.network_info, policies.force, DEFAULT_STATUS].map(|address| address.to_string());
    assert_eq!(listen, ["127.0.0.1:23954", "127.0.0.1:8722", "127.0.0.1:23955"]);
    let files = spec.certs.files(&Root::new("/r"));
    let paths = [files.server_ca, files.identity.certificate, files.identity.key];
    let names = ["ca.crt", "client.crt", "client.key"];
    assert_eq!(paths, names.map(|name| PathBuf::from("/r/etc/sarcenet/certs").join(name)));
    assert_eq!(control(&LEAST.replace('}', ", leases: , policies: }")), spec);
}

#[test]
fn all_of_it_can_be_said() {
    let (spec, policies) = (control(FULL), policy_server(FULL));
    assert_eq!(spec.leases.url, "https://10.77.1.1:4103");
    assert_eq!((spec.leases.block_prefix, spec.leases.single_ip), (20, true));
    let times = [spec.leases.interval, spec.leases.timeout, policies.interval];
    assert_eq!(times.map(|time| time.as_secs()), [1, 2, 3]);
    assert_eq!(spec.leases.partition_tolerance.as_secs(), 60);
    assert_eq!((policies.timeout.as_secs(), policies.watch), (4, false));
    assert_eq!(policies.security_groups, Some(Duration::from_secs(5)));
    assert!(policies.routers);
    let files = spec.certs.files(&Root::new("/r"));
    assert_eq!(files.server_ca, PathBuf::from("/r/ca.pem"));
    assert_eq!(files.identity.key, PathBuf::from("/r/cell.key"));
}

#[test]
fn the_tag_of_routers_is_asked_for_where_it_has_a_meaning() {
    for (more, asked) in [
        ("", false),
        (", policies: {overlay_ingress: true}", true),
        (", policies: {overlay_ingress: false}", false),
        (", leases: {single_ip: true}", true),
        (", leases: {single_ip: true}, policies: {overlay_ingress: false}", true),
    ] {
        assert_eq!(policy_server(&LEAST.replace('}', &format!("{more}}}"))).routers, asked);
    }
}

#[test]
fn an_overlay_is_open_only_where_the_file_says_so() {
    for (more, open) in [("", false), ("open_overlay: true", true), ("open_overlay: false", false)]
    {
        assert_eq!(Network::parse(&format!("{LEAST}{more}\n")).unwrap().open_overlay, open);
    }
    let mistakes = Network::parse(&format!("{LEAST}open_overlay: 1\n")).unwrap_err();
    assert!(mistakes[0].to_string().contains("open_overlay is a number"), "{mistakes:?}");
}

/// The least file with the first `from` replaced, and what is said.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    (
        "control: {underlay: 10.77.0.11}",
        "control:",
        &["2:8: control has no `underlay`; add it, e.g. `underlay: 10.0.0.11`"],
    ),
    (
        "control:",
        "cells: []\npolicies: []\ncontrol:",
        &[
            "2:8: cells come from servers with `control:`; remove one",
            "3:11: policies come from servers with `control:`; remove one",
        ],
    ),
    (
        "10.255.0.0/16",
        "100.64.0.0/10",
        &[
            "1:10: overlay 100.64.0.0/10 is not private; choose a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918)",
        ],
    ),
    (
        "10.255.0.0/16",
        "10.77.0.0/16",
        &[
            "2:21: underlay 10.77.0.11 lies inside the overlay 10.77.0.0/16; tunnel packets would be routed into the tunnel; use the cell's address on the physical network",
        ],
    ),
    (
        "10.255.0.0/16",
        "10.255.7.0/24",
        &[
            "1:10: block_prefix 24 leaves no block for a cell in the overlay 10.255.7.0/24; write one larger than 24",
        ],
    ),
    (
        "}",
        ", leases: {block_prefix: 16, url: 'http://a'}}",
        &[
            "2:56: block_prefix 16 leaves no block for a cell in the overlay 10.255.0.0/16; write one larger than 16",
            "2:65: `http://a` is asked with a certificate; write https:// instead of http://",
        ],
    ),
    (
        "}",
        ", policies: {url: policy-server, watch: 1}}",
        &[
            "2:49: `policy-server` is not the address of a server: relative URL without a base",
            "2:71: watch is a number; it must be true or false",
        ],
    ),
    (
        "}",
        ", certs: {ca: ca.crt}, leases: {interval: 0}}",
        &[
            "2:45: ca `ca.crt` is not an absolute path",
            "2:73: interval 0 is not in 1 to 3600 (seconds)",
        ],
    ),
    (
        "}",
        ", security_groups: {}}\nsecurity_groups: []",
        &[
            "2:10: control asks the policy server for security_groups, and they are in the file too; remove one of them",
        ],
    ),
    (
        "}",
        ", lease: {}}\nstatus: '0.0.0.0:8722'",
        &[
            "2:33: control has no key `lease`; did you mean `leases`?",
            "2:21: force and status would both listen on port 8722; give one of them another",
        ],
    ),
];

#[test]
fn mistakes_have_a_place_and_a_cure() {
    let mut wrong = Vec::new();
    for (from, to, expected) in MISTAKES {
        let said = Network::parse(&LEAST.replacen(from, to, 1)).unwrap_err();
        let said: Vec<_> = said.iter().map(ToString::to_string).collect();
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        expected.sort();
        if said != expected {
            wrong.push((to, said));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
