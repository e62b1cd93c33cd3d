//! Whose a container is, and what its interface shall be like, from whatever a runtime passes.

use sarcenet_agent_api::Wishes;
use serde_json::json;

use crate::agent::wish_of;

/// Keys of the configuration, `CNI_ARGS`, and app, space and organization that come of them.
#[test]
fn labels_annotations_and_arguments_say_whose_a_container_is() {
    let labels = json!({"cni": {"labels": [
        {"key": "app", "value": "a"}, {"key": "space", "value": "s"}, {"key": "org", "value": "o"},
    ]}});
    let annotations = json!({"io.kubernetes.cri.pod-annotations": {
        "sarcenet/app": "a", "sarcenet/space": "s", "sarcenet/org": "o",
    }});
    let nomad = "IgnoreUnknown=true;NOMAD_NAMESPACE=s;NOMAD_JOB_ID=a;NOMAD_GROUP_NAME=g";
    let pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=s;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=c";
    let all = [Some("a"), Some("s"), Some("o")];
    let none = [None; 3];
    for (patch, arguments, expected) in [
        (json!({}), "", none),
        (json!({"args": labels}), "", all),
        (json!({"runtimeConfig": annotations}), "", all),
        (json!({}), "SARCENET_APP=a;SARCENET_SPACE=s;SARCENET_ORG=o", all),
        // What the platform says counts first, then labels, annotations, arguments.
        (
            json!({"metadata": {"policy_group_id": "m", "space_id": "n"}, "args": labels}),
            "",
            [Some("m"), Some("n"), Some("o")],
        ),
        (
            json!({"args": {"cni": {"labels": {"app": "a"}}}, "runtimeConfig": annotations}),
            "SARCENET_APP=x;SARCENET_ORG=x",
            all,
        ),
        // Without a word nobody's variables are taken for an identity.
        (json!({}), nomad, none),
        (
            json!({"identity": {"app": "NOMAD_JOB_ID", "space": "NOMAD_NAMESPACE"}}),
            nomad,
            [Some("a"), Some("s"), None],
        ),
        (
            json!({"identity": {"app": ["sarcenet/app", "K8S_POD_NAME"], "space": "K8S_POD_NAMESPACE"}}),
            pod,
            [Some("a"), Some("s"), None],
        ),
        // Names that are listed are the only ones.
        (json!({"identity": {"app": "other"}, "args": labels}), "", [None, Some("s"), Some("o")]),
        // What is empty is not said.
        (json!({}), "SARCENET_APP=;SARCENET_SPACE=s", [None, Some("s"), None]),
        (
            json!({"metadata": {"policy_group_id": ""}, "args": labels}),
            "",
            [None, Some("s"), Some("o")],
        ),
    ] {
        let wish = wish_of(|call| call.netconf(&patch).set("CNI_ARGS", arguments));
        let metadata = &wish.terms.metadata;
        let said = [wish.app.as_deref(), metadata.space_id.as_deref(), metadata.org_id.as_deref()];
        assert_eq!(said, expected, "{patch} {arguments}");
    }
}

#[test]
fn an_address_a_mac_address_and_an_mtu_may_be_asked_for() {
    let mac = Some([0x0e, 0, 0, 0, 0, 0xff]);
    let ip = |last: u8| Some([10, 255, 55, last].into());
    let runtime = json!({"ips": ["10.255.55.7/24"], "mac": "0E-00-00-00-00-ff"});
    let args = json!({"cni": {"ips": ["10.255.55.8"]}});
    let arguments = "IP=10.255.55.9;MAC=0e:00:00:00:00:ff";
    for (patch, arguments, address, mac, mtu) in [
        (json!({}), "", None, None, None),
        (json!({"mtu": 0}), "", None, None, None),
        (json!({"mtu": 1360}), "", None, None, Some(1360)),
        (json!({"mtu": 70000}), "", None, None, None),
        (json!({"runtimeConfig": runtime, "args": args}), arguments, ip(7), mac, None),
        (json!({"args": args}), arguments, ip(8), mac, None),
        (json!({}), arguments, ip(9), mac, None),
        (json!({"runtimeConfig": {"ips": [], "mac": ""}}), "IP=", None, None, None),
    ] {
        let wish = wish_of(|call| call.netconf(&patch).set("CNI_ARGS", arguments));
        assert_eq!(wish.wishes, Wishes { address, mac, mtu }, "{patch} {arguments}");
    }
}

#[test]
fn keys_that_mean_nothing_here_are_no_obstacle() {
    let patch = json!({
        "capabilities": {"portMappings": true},
        "ipMasq": true,
        "more": [1, {"of": null}],
        "args": {"cni": {"labels": [], "more": 1}, "more": {}},
        "runtimeConfig": {"aliases": {"n": ["a"]}, "deviceID": "x", "cgroupPath": "/c"},
        "metadata": {"more": "x"},
        "ipam": {},
    });
    wish_of(|call| call.netconf(&patch).set("CNI_ARGS", "IgnoreUnknown=true").set("CNI_PATH", ""));
}
