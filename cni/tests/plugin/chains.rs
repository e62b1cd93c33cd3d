//! Results by version, and what is made of those of other plugins.

use std::net::Ipv4Addr;

use sarcenet_agent_api::{Expected, Request};
use serde_json::{Value, json};

use crate::agent::{Agent, obliging};
use crate::{Call, c1};

const NETNS: &str = "/proc/self/ns/net";

/// Version, and what is there instead of the newest version's interfaces and addresses.
#[test]
fn results_are_of_the_version_that_is_asked_for() {
    let agent = Agent::start(obliging);
    for (version, mtu, family) in [
        ("0.3.1", None, Some("4")),
        ("0.4.0", None, Some("4")),
        ("1.0.0", None, None),
        ("1.1.0", Some(1450), None),
    ] {
        let mut expected = json!({
            "cniVersion": version,
            "interfaces": [
                {"name": "s-010255055002", "mac": "aa:aa:0a:ff:37:02"},
                {"name": "eth0", "mac": "ee:ee:0a:ff:37:02", "sandbox": NETNS},
            ],
            "ips": [{"address": "10.255.55.2/32", "gateway": "169.254.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.0.1"}],
            "dns": {"nameservers": ["169.254.0.2"]},
        });
        for interface in expected["interfaces"].as_array_mut().unwrap() {
            if let Some(mtu) = mtu {
                interface["mtu"] = json!(mtu);
            }
        }
        if let Some(family) = family {
            expected["ips"][0]["version"] = json!(family);
        }
        let call = Call::new("ADD", &agent.socket())
            .netconf(&json!({"cniVersion": version, "attach": "veth"}));
        assert_eq!(serde_json::from_str::<Value>(&call.succeeds()).unwrap(), expected);
    }
}

#[test]
fn what_others_have_made_stays_in_the_result() {
    let agent = Agent::start(obliging);
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br0"}, {"name": "eth1", "sandbox": NETNS, "pciID": "7"}],
        "ips": [{"address": "192.0.2.7/24", "interface": 1}],
        "routes": [{"dst": "192.0.2.0/24"}],
        "dns": {"nameservers": ["192.0.2.1"], "domain": "example.org", "search": ["a"]},
        "more": {"of": "them"},
    });
    let patch = json!({
        "prevResult": previous,
        "runtimeConfig": {"dns": {"searches": ["b"]}},
    });
    let output = Call::new("ADD", &agent.socket()).netconf(&patch).succeeds();
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0"},
            {"name": "eth1", "sandbox": NETNS, "pciID": "7"},
            {"name": "eth0", "mtu": 1450, "sandbox": NETNS},
        ],
        "ips": [
            {"address": "192.0.2.7/24", "interface": 1},
            {"address": "10.255.55.2/32", "interface": 2},
        ],
        "routes": [{"dst": "192.0.2.0/24"}, {"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["169.254.0.2"], "domain": "example.org", "search": ["b"]},
        "more": {"of": "them"},
    });
    assert_eq!(serde_json::from_str::<Value>(&output).unwrap(), expected);
}

/// A result of the whole chain, the address that is ours in it, and whether the default route is.
#[test]
fn a_check_expects_what_the_chains_result_has_of_ours() {
    let ours = json!({"name": "eth0", "sandbox": NETNS});
    let net = |interface: Value| json!({"address": "10.255.55.2/32", "interface": interface});
    let other = json!({"address": "192.0.2.7/24", "interface": 0});
    let route = json!([{"dst": "192.0.2.0/24"}, {"dst": "0.0.0.0/0"}]);
    for (previous, address, default_route) in [
        (json!({}), false, false),
        (json!({"ips": [net(json!(null))], "routes": route}), true, true),
        (json!({"interfaces": [ours], "ips": [net(json!(0))]}), true, false),
        (
            json!({"interfaces": [{"name": "br0"}, ours], "ips": [other, net(json!(1))]}),
            true,
            false,
        ),
        // The cell's interface of that name is not the container's.
        (json!({"interfaces": [{"name": "eth0"}], "ips": [net(json!(0))]}), false, false),
        (json!({"interfaces": [{"name": "eth1", "sandbox": NETNS}], "ips": [other]}), false, false),
        (json!({"ips": [{"address": "fd00::7/64"}], "routes": [{"dst": "::/0"}]}), false, false),
    ] {
        let agent = Agent::start(obliging);
        let patch = json!({"prevResult": previous});
        Call::new("CHECK", &agent.socket()).netconf(&patch).succeeds();
        let address = address.then_some(Ipv4Addr::new(10, 255, 55, 2));
        let expected = Expected { address, default_route, bandwidth: None };
        assert_eq!(agent.asked(), [(Request::Check { id: c1(), expected }, 1)], "{patch}");
    }
}

#[test]
fn the_networks_own_dns_counts_when_the_runtime_has_none() {
    let agent = Agent::start(obliging);
    let dns = json!({"nameservers": ["192.0.2.1"], "domain": "d", "options": ["ndots:1"]});
    for (patch, expected) in [
        (json!({"dns": dns}), dns.clone()),
        (
            json!({"dns": dns, "runtimeConfig": {"dns": {"servers": ["192.0.2.2"]}}}),
            json!({"nameservers": ["192.0.2.2"]}),
        ),
    ] {
        let output = Call::new("ADD", &agent.socket()).netconf(&patch).succeeds();
        assert_eq!(serde_json::from_str::<Value>(&output).unwrap()["dns"], expected);
    }
}
