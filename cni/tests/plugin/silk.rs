//! The plugin under the names `silk-cni` and `bandwidth`.

use sarcenet_agent_api::{
    AttachKind, Bandwidth, ErrorCode, Expected, Extension, Rate, Reply, Request,
};
use serde_json::{Value, json};

use crate::agent::{Agent, nobody, obliging, wish_of};
use crate::{Call, c1};

/// The contract's configuration (section 6.1) is understood as it is.
#[test]
fn silks_configuration_attaches_a_veth() {
    let netconf = json!({
        "cniVersion": "1.0.0", "name": "silk", "type": "silk-cni", "daemonPort": 23954,
        "dataDir": "/var/vcap/data/host-local", "datastore": "/var/vcap/data/silk/store.json",
        "mtu": 1360,
    });
    let wish = wish_of(|call| call.named("silk-cni").netconf(&netconf));
    assert_eq!((wish.kind, wish.network.as_str()), (AttachKind::Veth, "silk"));
    assert_eq!(wish.wishes.mtu, Some(1360));
    let tun = json!({"attach": "tun"});
    assert_eq!(wish_of(|call| call.named("silk-cni").netconf(&tun)).kind, AttachKind::Tun);

    let agent = Agent::start(obliging);
    let call = Call::new("ADD", &agent.socket()).named("silk-cni").netconf(&netconf);
    let result: Value = serde_json::from_str(&call.succeeds()).unwrap();
    assert_eq!(result["interfaces"][0]["name"], "s-010255055002");
    Call::new("ADD", nobody())
        .named("silk-cni")
        .netconf(&json!({"mtu": -50}))
        .fails(7, "invalid config: MTU: less than min");
}

/// Keys of the plugin, and the limits that the agent hears of; none when it hears nothing.
#[test]
fn bandwidth_limits_what_another_plugin_has_attached() {
    let rate = |bits_per_second, burst_bits| Some(Rate { bits_per_second, burst_bits });
    let fixed =
        json!({"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 0, "egressBurst": 0});
    let previous = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.255.55.2/32"}], "x": 1});
    for (keys, expected) in [
        (json!({}), None),
        (json!({"ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0}), None),
        (fixed.clone(), Some(Bandwidth { send: None, receive: rate(1000, 2000) })),
        (
            json!({"ingressRate": 1, "ingressBurst": 1,
                "runtimeConfig": {"bandwidth": {"egressRate": 8, "egressBurst": 9}}}),
            Some(Bandwidth { send: rate(8, 9), receive: None }),
        ),
    ] {
        let agent = Agent::start(obliging);
        let call = |command| {
            Call::new(command, &agent.socket())
                .named("bandwidth")
                .netconf(&json!({"prevResult": previous}))
                .netconf(&keys)
        };
        let result: Value = serde_json::from_str(&call("ADD").succeeds()).unwrap();
        let passed = json!({
            "cniVersion": "1.1.0", "ips": [{"address": "10.255.55.2/32"}], "x": 1,
        });
        assert_eq!(result, passed);
        call("CHECK").succeeds();
        for command in ["DEL", "GC"] {
            assert_eq!(call(command).succeeds(), "");
        }
        let asked = expected.map(|limits| {
            let bandwidth = Some(limits);
            let more = Extension { bandwidth, ..Extension::default() };
            let expected = Expected {
                address: Some([10, 255, 55, 2].into()),
                default_route: false,
                bandwidth,
            };
            [(Request::Extend { id: c1(), more }, 0), (Request::Check { id: c1(), expected }, 1)]
        });
        assert_eq!(agent.asked(), asked.into_iter().flatten().collect::<Vec<_>>(), "{keys}");
    }
    // Without limits nobody is asked.
    let unlimited = json!({"prevResult": previous});
    Call::new("ADD", nobody()).named("bandwidth").netconf(&unlimited).succeeds();
}

#[test]
fn bandwidth_says_what_it_cannot_do() {
    let previous = json!({"ips": []});
    for (keys, code, text) in [
        (json!({}), 7, "needs a prevResult"),
        (json!({"prevResult": previous, "egressRate": 1}), 7, "if rate is set, burst must also"),
        (json!({"prevResult": previous, "ingressBurst": 1}), 7, "if burst is set, rate must also"),
        (
            json!({"prevResult": previous, "egressRate": 1, "egressBurst": 1}),
            11,
            "`sarcenet agent`",
        ),
        (json!({"prevResult": previous, "egressRate": "1"}), 6, "decode"),
    ] {
        Call::new("ADD", nobody()).named("bandwidth").netconf(&keys).fails(code, text);
    }
    let agent = Agent::start(|_| Reply::Error {
        code: ErrorCode::Unknown,
        message: "c1 eth0 is not attached".to_owned(),
    });
    Call::new("ADD", &agent.socket())
        .named("bandwidth")
        .netconf(&json!({"prevResult": previous, "egressRate": 1, "egressBurst": 1}))
        .fails(3, "only containers that Sarcenet has attached");
}
