//! What depends on the version of the specification, and where results are kept for DEL.

use std::fs;

use serde_json::{Value, json};

use crate::world::{
    CONFLIST, Container, HANDLE, PLUGINS, RESULTS, action, down, install, on_cell, patched,
    read_json, result, succeeds, told, up, write,
};

/// Version of the list, result of the plugins, address, and whether DEL gets the result.
#[test]
fn every_version_is_spoken() {
    let old = json!({"ip4": {"ip": "10.1.1.2/24"}, "dns": {"nameservers": ["169.254.0.2"]}});
    let middle = json!({
        "interfaces": [{"name": "eth0"}],
        "ips": [{"version": "4", "address": "10.1.1.2/24", "interface": 0}],
    });
    let new = json!({
        "interfaces": [{"name": "eth0"}],
        "ips": [{"address": "10.1.1.2/24", "interface": 0}],
    });
    on_cell(|| {
        let container = Container::start();
        install("first");
        install("second");
        for (version, result, del_gets_it) in [
            (Value::Null, &old, false),
            (json!("0.1.0"), &old, false),
            (json!("0.2.0"), &old, false),
            (json!("0.3.0"), &middle, false),
            (json!("0.3.1"), &middle, false),
            (json!("0.4.0"), &middle, true),
            (json!("1.0.0"), &new, true),
            (json!("1.1.0"), &new, true),
        ] {
            let plugins = json!([{"type": "first"}, {"type": "second", "cniVersion": "x"}]);
            let list = json!({"cniVersion": version, "name": "n", "plugins": plugins});
            write(CONFLIST, &list.to_string());
            write(&format!("{PLUGINS}/result"), &result.to_string());
            let answer = up(&container, HANDLE);
            assert_eq!(
                answer["properties"]["garden.network.container-ip"], "10.1.1.2",
                "{version}"
            );
            let spoken = version.as_str().unwrap_or("0.1.0");
            assert_eq!(told("second", "ADD")["cniVersion"], spoken);
            let expected = patched(result.clone(), &json!({"cniVersion": spoken}));
            assert_eq!(told("second", "ADD")["prevResult"], expected);
            assert_eq!(told("first", "ADD").get("prevResult"), None);
            down(HANDLE);
            let got = told("first", "DEL").get("prevResult").cloned();
            assert_eq!(got, del_gets_it.then_some(expected), "{version}");
        }
    });
}

#[test]
fn a_single_plugin_is_a_list_of_one() {
    on_cell(|| {
        fs::remove_file(CONFLIST).unwrap();
        let single = json!({"cniVersion": "1.0.0", "name": "n", "type": "bandwidth", "more": 1});
        write("/var/vcap/data/cni/10-single.conf", &single.to_string());
        let container = Container::start();
        up(&container, HANDLE);
        assert_eq!(told("bandwidth", "ADD")["more"], 1);
        down(HANDLE);
    });
}

#[test]
fn more_than_one_configuration_is_noted() {
    on_cell(|| {
        write("/var/vcap/data/cni/z.conf", "nonsense");
        let container = Container::start();
        let done = crate::world::run(&mut action("up", HANDLE), &container.wish().to_string());
        let expected =
            format!("2 CNI configurations in /var/vcap/data/cni: only {CONFLIST} is used\n");
        assert_eq!((done.status, done.errors), (Some(0), expected));
    });
}

#[test]
fn results_are_kept_as_libcni_keeps_them() {
    on_cell(|| {
        let container = Container::start();
        up(&container, HANDLE);
        let path = format!("{RESULTS}/cni-wrapper-{HANDLE}-eth0");
        let kept = json!({
            "kind": "cniCacheV1",
            "containerId": HANDLE,
            "ifName": "eth0",
            "networkName": "cni-wrapper",
            "result": result(),
        });
        assert_eq!(read_json(&path), kept);

        // What libcni itself kept is understood, and what nobody can read is no obstacle.
        let theirs = json!({"kind": "cniCacheV1", "config": "e30=", "result": {"theirs": 1}});
        for (kept, expected) in [
            (theirs.to_string(), Some(json!({"theirs": 1}))),
            (json!({"kind": "other", "result": {}}).to_string(), None),
            ("{".to_owned(), None),
        ] {
            write(&path, &kept);
            assert_eq!(succeeds(&mut action("down", HANDLE), "null"), "");
            assert_eq!(told("bandwidth", "DEL").get("prevResult"), expected.as_ref(), "{kept}");
            assert!(!fs::exists(&path).unwrap());
        }
    });
}
