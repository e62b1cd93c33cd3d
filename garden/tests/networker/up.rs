//! What `up` tells the plugins and Garden (contract section 8.2).

use serde_json::{Value, json};

use crate::world::{
    ADAPTER, CONFIG, CONFLIST, Container, HANDLE, MOUNTS, PLUGINS, acquired, action, bind_mount,
    calls, config, conflist, down, fails, install, on_cell, patched, result, same, script,
    succeeds, told, unscript, up, variables, write,
};

/// What every plugin is told about [`Container::wish`].
fn injected() -> Value {
    json!({
        "metadata": {
            "app_id": "A",
            "policy_group_id": "A",
            "space_id": "S",
            "org_id": "O",
            "ports": "8080",
            "container_workload": "app",
        },
        "runtimeConfig": {
            "portMappings": [
                {"host_port": 61000, "container_port": 8080},
                {"host_port": 12345, "container_port": 7000},
                {"host_port": 61001, "container_port": 2222},
            ],
            "netOutRules": [{
                "protocol": 1,
                "networks": [{"start": "8.8.8.8", "end": "9.9.9.9"}],
                "ports": [{"start": 53, "end": 54}],
                "log": true,
            }],
        },
    })
}

#[test]
fn a_container_comes_with_the_contracts_files_unchanged() {
    on_cell(|| {
        write(CONFIG, ADAPTER);
        let container = Container::start();
        let output = succeeds(&mut action("up", HANDLE), &container.wish().to_string());
        let expected = concat!(
            r#"{"properties":{"garden.network.container-ip":"10.255.73.3","#,
            r#""garden.network.host-ip":"255.255.255.255","garden.network.mapped-ports":"#,
            r#""[{\"HostPort\":61000,\"ContainerPort\":8080},"#,
            r#"{\"HostPort\":12345,\"ContainerPort\":7000},"#,
            r#"{\"HostPort\":61001,\"ContainerPort\":2222}]","garden.network.interface":"eth0"},"#,
            r#""dns_servers":["169.254.0.2"],"search_domains":["apps.internal"]}"#,
            "\n"
        );
        assert_eq!(output, expected);
        assert!(same(&bind_mount(HANDLE), &container.namespace()));
        assert_eq!(acquired(), json!({HANDLE: [61000, 61001]}));

        let plugins = conflist()["plugins"].clone();
        for (index, plugin) in ["cni-wrapper-plugin", "bandwidth"].into_iter().enumerate() {
            let mut expected = patched(plugins[index].clone(), &injected());
            expected["name"] = json!("cni-wrapper");
            expected["cniVersion"] = json!("1.0.0");
            if index > 0 {
                expected["prevResult"] = result();
            }
            assert_eq!(told(plugin, "ADD"), expected, "{plugin}");
            let expected = format!(
                "CNI_ARGS=\nCNI_COMMAND=ADD\nCNI_CONTAINERID={HANDLE}\nCNI_IFNAME=eth0\n\
                 CNI_NETNS={MOUNTS}/{HANDLE}\nCNI_PATH={PLUGINS}\n"
            );
            assert_eq!(variables(plugin, "ADD"), expected, "{plugin}");
        }
        let order = [format!("ADD cni-wrapper-plugin {HANDLE}"), format!("ADD bandwidth {HANDLE}")];
        assert_eq!(calls(), order);
        down(HANDLE);
    });
}

/// What Garden says, beside the process, and what the plugins are told of it.
#[test]
fn what_garden_leaves_out_is_empty() {
    on_cell(|| {
        let nothing = json!({"portMappings": [], "netOutRules": []});
        for (said, metadata, runtime_config) in [
            (json!({}), Value::Null, &nothing),
            (
                json!({"Properties": null, "netin": null, "netout_rules": null}),
                Value::Null,
                &nothing,
            ),
            (json!({"Properties": {}}), Value::Null, &nothing),
            (json!({"properties": {"Some-Key": "v"}}), json!({"Some-Key": "v"}), &nothing),
            (
                json!({"Netin": [{"container_port": 80}], "unknown": 1}),
                Value::Null,
                &json!({
                    "portMappings": [{"host_port": 61000, "container_port": 80}],
                    "netOutRules": [],
                }),
            ),
        ] {
            let container = Container::start();
            let wish = patched(said.clone(), &json!({"pid": container.pid()}));
            let output = succeeds(&mut action("up", HANDLE), &wish.to_string());
            let ports = &runtime_config["portMappings"];
            let told_garden = &serde_json::from_str::<Value>(&output).unwrap()["properties"];
            let mapped = told_garden["garden.network.mapped-ports"].as_str().unwrap();
            let mapped: Value = serde_json::from_str(mapped).unwrap();
            assert_eq!(mapped.as_array().unwrap().len(), ports.as_array().unwrap().len());
            let told = told("bandwidth", "ADD");
            assert_eq!(told.get("metadata").unwrap_or(&Value::Null), &metadata, "{said}");
            assert_eq!(&told["runtimeConfig"], runtime_config, "{said}");
            down(HANDLE);
        }
    });
}

#[test]
fn empty_lists_are_left_out_of_the_answer() {
    on_cell(|| {
        let container = Container::start();
        write(CONFIG, &patched(config(), &json!({"search_domains": []})).to_string());
        write(&format!("{PLUGINS}/result"), &patched(result(), &json!({"dns": {}})).to_string());
        let answer = up(&container, HANDLE);
        assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["properties"]);
    });
}

/// What the plugins print, and what Garden reads on standard error.
#[test]
fn results_that_are_of_no_use_are_told() {
    on_cell(|| {
        let container = Container::start();
        let wish = container.wish().to_string();
        for (result, expected) in [
            (
                patched(result(), &json!({"ips": []})).to_string(),
                "expected an IPv4 address in the CNI result",
            ),
            (
                patched(result(), &json!({"cniVersion": "7.0.0"})).to_string(),
                "cni plugin result version incompatible: unsupported CNI result version \"7.0.0\"",
            ),
            (
                String::new(),
                "cni up failed: add network list failed: plugin type=\"cni-wrapper-plugin\" failed \
                 (add): unable to decode its result: EOF while parsing a value at line 1 column 0",
            ),
            (
                "x".repeat(5 << 20),
                "cni up failed: add network list failed: plugin type=\"cni-wrapper-plugin\" failed \
                 (add): its result is longer than 4194304 bytes",
            ),
        ] {
            write(&format!("{PLUGINS}/result"), &result);
            fails(&mut action("up", HANDLE), &wish, &format!("prefix: {expected}"));
            down(HANDLE);
        }
    });
}

/// What a plugin that fails does, and what Garden reads on standard error.
#[test]
fn plugins_that_fail_are_told() {
    const WHO: &str = "prefix: cni up failed: add network list failed: plugin type=\"bandwidth\" \
                       name=\"bandwidth-limit\" failed (add):";
    on_cell(|| {
        let container = Container::start();
        let wish = container.wish().to_string();
        for (behaviour, expected) in [
            (
                r#"echo '{"cniVersion":"1.0.0","code":100,"msg":"set up host",
                    "details":"no link"}'; exit 1"#,
                "set up host; no link",
            ),
            (r#"echo '{"code":100,"msg":"set up host"}'; exit 1"#, "set up host"),
            ("echo no luck >&2; exit 1", "netplugin failed: \"no luck\\n\""),
            ("exit 3", "netplugin failed with no error message: exit status: 3"),
            (
                "printf nonsense; exit 1",
                "netplugin failed but error parsing its diagnostic message \"nonsense\": expected \
                 ident at line 1 column 2",
            ),
            ("kill -9 $$", "netplugin failed with no error message: signal: 9 (SIGKILL)"),
        ] {
            script("bandwidth", "ADD", behaviour);
            fails(&mut action("up", HANDLE), &wish, &format!("{WHO} {expected}"));
            // Garden runs `down` then.
            assert!(bind_mount(HANDLE).exists());
            down(HANDLE);
        }
        unscript("bandwidth", "ADD");
        let gone = patched(conflist(), &json!({"plugins": [{"type": "absent"}]}));
        write(CONFLIST, &gone.to_string());
        let expected = format!(
            "prefix: cni up failed: add network list failed: plugin type=\"absent\" failed (add): \
             failed to find plugin \"absent\" in path [{PLUGINS}]"
        );
        fails(&mut action("up", HANDLE), &wish, &expected);
    });
}

#[test]
fn what_a_plugin_says_on_standard_error_is_passed_on() {
    on_cell(|| {
        let container = Container::start();
        script("bandwidth", "ADD", "echo by the way >&2");
        let done = crate::world::run(&mut action("up", HANDLE), &container.wish().to_string());
        assert_eq!((done.status, done.errors.as_str()), (Some(0), "by the way\n"));
    });
}

#[test]
fn a_plugin_need_not_read_what_it_is_told() {
    on_cell(|| {
        let container = Container::start();
        write(CONFLIST, &json!({"name": "n", "cniVersion": "1.0.0", "type": "deaf"}).to_string());
        install("deaf");
        write(&format!("{PLUGINS}/deaf"), &format!("#!/bin/sh\ncat {PLUGINS}/result\n"));
        let properties = json!({"Properties": {"log_config": "x".repeat(1 << 20)}});
        let wish = patched(container.wish(), &properties).to_string();
        succeeds(&mut action("up", HANDLE), &wish);
    });
}

#[test]
fn without_a_network_there_is_no_address() {
    on_cell(|| {
        let container = Container::start();
        std::fs::remove_file(CONFLIST).unwrap();
        let wish = container.wish().to_string();
        fails(&mut action("up", HANDLE), &wish, "prefix: cni up failed: no ip allocated");
        down(HANDLE);
    });
}
