use std::fmt::Write;

use proptest::prelude::*;
use sarcenet_agent_api::{parse_ports, parse_protocol};

use super::*;

const HEAD: &str = "\
# The network of the test.
overlay: 10.255.0.0/16   # all of it
cells:
  - {name: cell1, underlay: 10.77.0.11, subnet: 10.255.55.0/24}
apps:
  - {id: app-a, tag: 1}
  - id: 'app#b'
    tag: 2
  - {id: 'null', tag: 3}

";

fn policy(text: &str) -> Policy {
    let words: Vec<_> = text.split(' ').collect();
    Policy {
        from: words[0].into(),
        to: words[1].into(),
        protocol: parse_protocol(words[2]).unwrap(),
        ports: parse_ports(words[3]).unwrap(),
    }
}

/// Sections as people write them: before, what is allowed, after.
const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "",
        "app-a app#b tcp 80",
        "policies:\n  - {from: app-a, to: 'app#b', protocol: tcp, ports: 80}\n",
    ),
    (
        "policies: []  # none yet\nvni: 1\n",
        "app-a null udp 7-9",
        "policies:  # none yet\n  - {from: app-a, to: 'null', protocol: udp, ports: 7-9}\nvni: 1\n",
    ),
    (
        "policies:\n# about vni\nvni: 1\n",
        "app-a app-a tcp 80",
        "policies:\n  - {from: app-a, to: app-a, protocol: tcp, ports: 80}\n# about vni\nvni: 1\n",
    ),
    (
        "policies:\n- from: app-a # first\n  to: app-a\n  protocol: tcp\n  ports: 1\n\n# tail\n",
        "app-a app-a tcp 80",
        "policies:\n- from: app-a # first\n  to: app-a\n  protocol: tcp\n  ports: 1\n\
         - {from: app-a, to: app-a, protocol: tcp, ports: 80}\n\n# tail\n",
    ),
    (
        "policies: [{from: app-a, to: app-a, protocol: tcp, ports: 1}]\n",
        "app-a app-a tcp 80",
        "policies:\n  - {from: app-a, to: app-a, protocol: tcp, ports: 1}\n  \
         - {from: app-a, to: app-a, protocol: tcp, ports: 80}\n",
    ),
    (
        "policies:\n    - {from: app-a, to: app-a, protocol: tcp, ports: 1}",
        "app-a app-a tcp 80",
        "policies:\n    - {from: app-a, to: app-a, protocol: tcp, ports: 1}\n    \
         - {from: app-a, to: app-a, protocol: tcp, ports: 80}",
    ),
];

#[test]
fn sections_as_people_write_them() {
    for (before, allowed, after) in ALLOWED {
        let text = format!("{HEAD}{before}");
        let changed = with_policy(&text, &policy(allowed)).unwrap();
        assert_eq!(changed, format!("{HEAD}{after}"));
        assert!(Network::parse(&changed).unwrap().policies.contains(&policy(allowed)));
    }
}

#[test]
fn comments_go_with_the_item_they_precede() {
    let text = format!(
        "{HEAD}policies:\n  # one\n  - {{from: app-a, to: app-a, protocol: tcp, ports: 1}}\n  \
         # two\n  - {{from: app-a, to: app-a, protocol: tcp, ports: 2}}\nvni: 1\n"
    );
    let without = without_policy(&text, &policy("app-a app-a tcp 1")).unwrap();
    assert!(without.contains("  # one\n  # two\n  - {"), "{without}");
    let without = without_policy(&text, &policy("app-a app-a tcp 2")).unwrap();
    assert!(without.ends_with("ports: 1}\n  # two\nvni: 1\n"), "{without}");
}

#[test]
fn a_file_is_changed_in_place_and_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.yaml");
    let link = dir.path().join("link.yaml");
    std::fs::write(&path, format!("{HEAD}policies: []\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let wanted = policy("app-a app#b tcp 80");
    let file = PolicyFile::lock(&link).unwrap();
    assert!(file.change(&wanted, true).unwrap().changed);
    assert!(!file.change(&wanted, true).unwrap().changed);
    assert!(link.is_symlink());
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o640);
    assert_eq!(Network::load(&link).unwrap().policies, std::slice::from_ref(&wanted));
    assert!(file.change(&wanted, false).unwrap().changed);
    assert!(!file.change(&wanted, false).unwrap().changed);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{HEAD}policies: []\n"));
}

#[test]
fn a_policy_that_does_not_fit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("network.yaml");
    std::fs::write(&path, HEAD).unwrap();
    let file = PolicyFile::lock(&path).unwrap();
    let error = file.change(&policy("app-a app-x tcp 80"), true).unwrap_err().to_string();
    assert!(error.contains("no app is named `app-x`; did you mean `app-a`?"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), HEAD);
}

fn policies() -> impl Strategy<Value = Policy> {
    let app = prop::sample::select(vec!["app-a", "app#b", "null"]);
    (app.clone(), app, prop::bool::ANY, 1..=u16::MAX, 0..200_u16).prop_map(
        |(from, to, tcp, first, width)| Policy {
            from: from.into(),
            to: to.into(),
            protocol: parse_protocol(if tcp { "tcp" } else { "udp" }).unwrap(),
            ports: sarcenet_agent_api::PortRange { first, last: first.saturating_add(width) },
        },
    )
}

/// A section in one of the usual styles.
fn section() -> impl Strategy<Value = (Vec<Policy>, String)> {
    let styles = (prop::collection::btree_set(policies(), 0..6), 0..4_u8, prop::bool::ANY);
    styles.prop_map(|(policies, style, comments)| {
        let policies: Vec<_> = policies.into_iter().collect();
        let mut text = String::from("policies:");
        if policies.is_empty() {
            text += " []\n";
        } else if style == 0 {
            let items: Vec<_> = policies.iter().map(item).collect();
            writeln!(text, " [{}]", items.join(", ")).unwrap();
        } else {
            text.push('\n');
            for policy in &policies {
                if comments {
                    text += "  # because\n";
                }
                let indent = ["", "  ", "      "][style as usize - 1];
                if style == 1 {
                    let (from, to) = (scalar(&policy.from), scalar(&policy.to));
                    let Policy { protocol, ports, .. } = policy;
                    write!(
                        text,
                        "- from: {from}\n  to: {to}\n  protocol: {protocol}\n  ports: {ports}\n"
                    )
                    .unwrap();
                } else {
                    writeln!(text, "{indent}- {}", item(policy)).unwrap();
                }
            }
        }
        (policies, text)
    })
}

proptest! {
    /// Everything outside the section stays, the list becomes what it should, and revoking what
    /// was allowed brings a block back byte for byte.
    #[test]
    fn only_the_section_changes(
        (old, section) in section(),
        wanted in policies(),
        tail in prop::sample::select(vec!["", "vni: 7\n", "\n# tail\nport: 4790\n", "...\n"]),
        first in prop::bool::ANY,
    ) {
        let text = if first && !tail.starts_with("...") {
            format!("{section}{tail}{HEAD}")
        } else {
            format!("{HEAD}{section}{tail}")
        };
        prop_assert_eq!(&Network::parse(&text).unwrap().policies, &old);
        prop_assume!(!old.contains(&wanted));

        let allowed = with_policy(&text, &wanted).unwrap();
        let mut expected = old.clone();
        expected.push(wanted.clone());
        prop_assert_eq!(&Network::parse(&allowed).unwrap().policies, &expected);
        prop_assert!(allowed.contains(HEAD) && allowed.contains(tail));

        let revoked = without_policy(&allowed, &wanted).unwrap();
        if section.contains(" [{") {
            prop_assert_eq!(&Network::parse(&revoked).unwrap().policies, &old);
        } else {
            prop_assert_eq!(&revoked, &text);
        }

        let mut left = old.clone();
        let mut shrinking = text;
        while !left.is_empty() {
            let gone = left.remove(left.len() / 2);
            shrinking = without_policy(&shrinking, &gone).unwrap();
            prop_assert_eq!(&Network::parse(&shrinking).unwrap().policies, &left);
            prop_assert!(shrinking.contains(HEAD) && shrinking.contains(tail));
        }
    }
}
