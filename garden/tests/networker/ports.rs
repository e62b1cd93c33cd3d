//! Ports of the cell (contract section 8.4).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::world::{
    CONFIG, Container, HANDLE, STATE, acquired, action, bind_mount, calls, config, down, fails,
    on_cell, patched, succeeds, up, write,
};

fn mapped(answer: &Value) -> Value {
    let text = answer["properties"]["garden.network.mapped-ports"].as_str().unwrap();
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_port_that_is_named_is_not_given_away_beside() {
    on_cell(|| {
        let container = Container::start();
        let net_in = json!([
            {"host_port": 0, "container_port": 1},
            {"host_port": 61000, "container_port": 2},
        ]);
        let wish = patched(container.wish(), &json!({"netin": net_in}));
        let output = succeeds(&mut action("up", HANDLE), &wish.to_string());
        let expected = json!([
            {"HostPort": 61001, "ContainerPort": 1},
            {"HostPort": 61000, "ContainerPort": 2},
        ]);
        assert_eq!(mapped(&serde_json::from_str(&output).unwrap()), expected);
        assert_eq!(acquired(), json!({HANDLE: [61001]}));
    });
}

#[test]
fn when_ports_run_out_none_is_taken() {
    on_cell(|| {
        write(CONFIG, &patched(config(), &json!({"total_ports": 3})).to_string());
        let containers = [Container::start(), Container::start()];
        up(&containers[0], "one");
        let wish = containers[1].wish().to_string();
        let expected = "prefix: allocating port: acquire port: port pool exhausted";
        fails(&mut action("up", "two"), &wish, expected);
        assert_eq!(acquired(), json!({"one": [61000, 61001]}));
        // No plugin was called for it.
        assert!(calls().iter().all(|call| call.ends_with("one")));
        down("two");
        down("one");
        let answer = up(&containers[1], "two");
        assert_eq!(mapped(&answer)[0], json!({"HostPort": 61000, "ContainerPort": 8080}));
    });
}

/// The contract's range names ports beyond the highest one.
#[test]
fn there_is_no_port_above_65535() {
    on_cell(|| {
        let all_but_one: Vec<u16> = (61_000..u16::MAX).collect();
        write(STATE, &json!({"acquired_ports": {"other": all_but_one}}).to_string());
        let container = Container::start();
        let expected = "prefix: allocating port: acquire port: port pool exhausted";
        fails(&mut action("up", HANDLE), &container.wish().to_string(), expected);
        let one = json!({"netin": [{"container_port": 8080}]});
        let wish = patched(container.wish(), &one).to_string();
        succeeds(&mut action("up", HANDLE), &wish);
        assert_eq!(acquired()[HANDLE], json!([65535]));
    });
}

/// The state file before an `up` that wants two ports, and after it.
#[test]
fn the_state_of_others_is_kept() {
    on_cell(|| {
        let container = Container::start();
        for (before, after) in [
            (None, json!({HANDLE: [61000, 61001]})),
            (Some(""), json!({HANDLE: [61000, 61001]})),
            (Some(r#"{"acquired_ports":{}}"#), json!({HANDLE: [61000, 61001]})),
            (Some(r#"{"acquired_ports":null}"#), json!({HANDLE: [61000, 61001]})),
            (
                Some(r#"{"acquired_ports":{"other":[61003,61000]}}"#),
                json!({"other": [61003, 61000], HANDLE: [61001, 61002]}),
            ),
            // From a call that did not come to its end.
            (
                Some(r#"{"acquired_ports":{"6de68121-5eb5-47f6-4c1e-6884":[61007]}}"#),
                json!({HANDLE: [61007, 61000]}),
            ),
            // From a configuration with other ports.
            (
                Some(r#"{"acquired_ports":{"6de68121-5eb5-47f6-4c1e-6884":[5000]}}"#),
                json!({HANDLE: [5000, 61000, 61001]}),
            ),
        ] {
            match before {
                Some(text) => write(STATE, text),
                None => assert!(!fs::exists(STATE).unwrap()),
            }
            up(&container, HANDLE);
            assert_eq!(acquired(), after, "{before:?}");
            assert_eq!(fs::metadata(STATE).unwrap().permissions().mode() & 0o777, 0o600);
            down(HANDLE);
        }
    });
}

#[test]
fn a_damaged_state_file_is_not_guessed_at() {
    on_cell(|| {
        let container = Container::start();
        write(STATE, "{");
        let expected = format!(
            "prefix: allocating port: decoding state file: {STATE}: EOF while parsing an object at \
             line 1 column 1"
        );
        fails(&mut action("up", HANDLE), &container.wish().to_string(), &expected);
        assert_eq!(fs::read_to_string(STATE).unwrap(), "{");
        assert!(bind_mount(HANDLE).exists());
    });
}
