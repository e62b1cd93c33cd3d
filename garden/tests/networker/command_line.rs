//! Words, configuration and what is said when they are wrong (contract section 8.6).

use std::os::unix::fs::symlink;

use serde_json::json;

use crate::world::{
    CONFIG, CONFLIST, Container, HANDLE, action, bind_mount, call, calls, config, fails, on_cell,
    patched, run, succeeds, write,
};

const FILE: &str = "--configFile=/var/vcap/jobs/garden-cni/config/adapter.json";

#[test]
fn mistakes_are_told_in_the_contracts_words() {
    const DIRECT: &str = "cfnetworking: this is a plugin for Garden-runC.  Don't run it directly.";
    const FLAG: &str = "prefix: parse args: missing required flag";
    on_cell(|| {
        let table: &[(&[&str], String)] = &[
            (&[], DIRECT.to_owned()),
            (&["-h"], DIRECT.to_owned()),
            (&["--help"], DIRECT.to_owned()),
            (
                &["--action=up", "--handle=h"],
                "cfnetworking: parse args: missing required flag 'configFile'".to_owned(),
            ),
            (&["--action=up", FILE], format!("{FLAG} 'handle'")),
            (&["--handle=h", FILE], format!("{FLAG} 'action'")),
            (&[FILE], format!("{FLAG} 'handle'")),
            (
                &[FILE, "--action=up", "--handle=h", "something-else", "more"],
                "prefix: parse args: unexpected extra args: [something-else more]".to_owned(),
            ),
            (
                &[FILE, "--action=up", "--handle=h", "--banana"],
                "cfnetworking: parse args: flag provided but not defined: -banana".to_owned(),
            ),
            (
                &["--action=up", "--handle=h", "--configFile"],
                "cfnetworking: parse args: flag needs an argument: -configFile".to_owned(),
            ),
            (
                &["--action=up", "--handle=h", "--configFile=/nowhere"],
                "cfnetworking: parse args: reading config file /nowhere: No such file or directory \
                 (os error 2)"
                    .to_owned(),
            ),
            (
                &[FILE, "--action=some-invalid-action", "--handle=h"],
                "prefix: unrecognized action: some-invalid-action".to_owned(),
            ),
            (
                &[FILE, "--action=up", "--handle=../h"],
                "prefix: handle \"../h\" is not 1 to 128 letters, digits, `_`, `.` and `-`, the \
                 first one a letter or digit"
                    .to_owned(),
            ),
        ];
        for (words, expected) in table {
            fails(&mut call(words), "invalid json", expected);
        }
        assert_eq!(calls(), [""; 0]);
    });
}

#[test]
fn mistakes_in_the_configuration_are_told() {
    on_cell(|| {
        for key in [
            "cni_plugin_dir",
            "cni_config_dir",
            "bind_mount_dir",
            "state_file",
            "start_port",
            "total_ports",
            "log_prefix",
        ] {
            write(CONFIG, &patched(config(), &json!({key: null})).to_string());
            let prefix = if key == "log_prefix" { "cfnetworking" } else { "prefix" };
            let expected = format!("{prefix}: parse args: missing required config '{key}'");
            fails(&mut action("up", HANDLE), "{}", &expected);
        }
        for (patch, expected) in [
            (
                json!({"total_ports": 5000, "start_port": 61000, "search_domains": "x"}),
                "invalid type: string \"x\", expected a sequence",
            ),
            (json!({"start_port": 65536}), "start_port 65536 is no port; the highest is 65535"),
            (json!({"total_ports": 1.5}), "total_ports: invalid type: floating point `1.5`"),
            (json!({"start_port": -1}), "start_port: invalid value: integer `-1`, expected u32"),
        ] {
            write(CONFIG, &patched(config(), &patch).to_string());
            let done = run(&mut action("up", HANDLE), "{}");
            assert_eq!((done.status, done.output.as_str()), (Some(1), ""));
            assert!(done.errors.starts_with("prefix: parse args: "), "{}", done.errors);
            assert!(done.errors.contains(expected), "{}", done.errors);
        }
        write(CONFIG, "{");
        let expected = format!(
            "cfnetworking: parse args: parsing config ({CONFIG}): EOF while parsing an object at \
             line 1 column 1"
        );
        fails(&mut action("up", HANDLE), "{}", &expected);
    });
}

#[test]
fn a_network_that_cannot_be_read_is_told() {
    on_cell(|| {
        write(CONFLIST, r#"{"name":"n","plugins":[]}"#);
        let expected = format!(
            "prefix: load cni config: unable to load config from {CONFLIST}: error parsing \
             configuration: no plugins in list"
        );
        fails(&mut action("up", HANDLE), "{}", &expected);
        fails(&mut action("down", HANDLE), "null", &expected);
        let elsewhere = json!({"cni_config_dir": "/var/nowhere"});
        write(CONFIG, &patched(config(), &elsewhere).to_string());
        let expected = "prefix: load cni config: error walking config directory: /var/nowhere: No \
                        such file or directory (os error 2)";
        fails(&mut action("up", HANDLE), "{}", expected);
    });
}

#[test]
fn mistakes_on_standard_input_are_told() {
    on_cell(|| {
        for (what, input, expected) in [
            ("up", "{{{bad", "decode standard input: key must be a string at line 1 column 2"),
            ("up", "", "decode standard input: EOF while parsing a value at line 1 column 0"),
            (
                "up",
                r#"{"pid":"not-a-number"}"#,
                "decode standard input: Pid: invalid type: string \"not-a-number\", expected i32",
            ),
            (
                "up",
                r#"{"pid":1,"netin":[{"host_port":65536}]}"#,
                "decode standard input: netin: invalid value: integer `65536`, expected u16",
            ),
            (
                "net-out",
                r#"{"netout_rule":{"networks":[{"start":"x"}]}}"#,
                "decode standard input: rule 1: invalid ip: x",
            ),
        ] {
            fails(&mut action(what, HANDLE), input, &format!("prefix: {expected}"));
        }
        let long = format!("{{\"x\":\"{}\"}}", "x".repeat(17 << 20));
        fails(
            &mut action("up", HANDLE),
            &long,
            "prefix: standard input is longer than 16777216 bytes",
        );
        assert!(!bind_mount(HANDLE).exists());
        assert_eq!(calls(), [""; 0]);
    });
}

#[test]
fn a_proxy_in_the_container_is_refused_before_anything_is_made() {
    on_cell(|| {
        let container = Container::start();
        for patch in [
            json!({"proxy_redirect_cidr": "10.255.0.0/16"}),
            json!({"enable_ingress_proxy_redirect": true}),
        ] {
            write(CONFIG, &patched(config(), &patch).to_string());
            let expected = "prefix: proxy redirect apply: packets are not redirected to proxies \
                            here; empty proxy_redirect_cidr and turn enable_ingress_proxy_redirect \
                            off";
            fails(&mut action("up", HANDLE), &container.wish().to_string(), expected);
            assert!(!bind_mount(HANDLE).exists());
        }
    });
}

#[test]
fn the_name_of_the_program_does_not_matter() {
    on_cell(|| {
        let link = "/var/garden-external-networker";
        symlink(crate::world::PROGRAM, link).unwrap();
        let mut command = std::process::Command::new(link);
        command.args([FILE, "--action", "down", "--handle", HANDLE]);
        assert_eq!(succeeds(&mut command, "null"), "");
    });
}
