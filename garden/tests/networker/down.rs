//! What `down` undoes, and what it makes of failures (contract section 8.3).

use serde_json::json;

use crate::world::{
    CONFLIST, Container, HANDLE, STATE, acquired, action, bind_mount, calls, conflist, down, fails,
    on_cell, result, run, script, told, unscript, up, variables, write,
};

#[test]
fn plugins_are_undone_in_reverse_and_ports_are_free_again() {
    on_cell(|| {
        let container = Container::start();
        up(&container, HANDLE);
        up(&container, "other");
        down(HANDLE);
        assert_eq!(acquired(), json!({"other": [61002, 61003]}));
        let order = [format!("DEL bandwidth {HANDLE}"), format!("DEL cni-wrapper-plugin {HANDLE}")];
        assert_eq!(calls()[4..], order);
        // Without what Garden said when it came.
        let plugins = conflist()["plugins"].clone();
        for (index, plugin) in ["cni-wrapper-plugin", "bandwidth"].into_iter().enumerate() {
            let mut expected = plugins[index].clone();
            expected["name"] = json!("cni-wrapper");
            expected["cniVersion"] = json!("1.0.0");
            expected["prevResult"] = result();
            assert_eq!(told(plugin, "DEL"), expected, "{plugin}");
            let as_before =
                variables(plugin, "ADD").replace("=ADD", "=DEL").replace("other", HANDLE);
            assert_eq!(variables(plugin, "DEL"), as_before);
        }
        // The ports that went are given first.
        up(&container, HANDLE);
        assert_eq!(acquired()[HANDLE], json!([61000, 61001]));
    });
}

#[test]
fn down_may_be_repeated_and_come_without_an_up() {
    on_cell(|| {
        down(HANDLE);
        let container = Container::start();
        up(&container, HANDLE);
        drop(container);
        down(HANDLE);
        down(HANDLE);
        assert_eq!(calls().iter().filter(|call| call.starts_with("DEL")).count(), 6);
    });
}

#[test]
fn a_plugin_that_fails_leaves_the_rest_for_another_down() {
    on_cell(|| {
        let container = Container::start();
        up(&container, HANDLE);
        script(
            "cni-wrapper-plugin",
            "DEL",
            r#"echo '{"code":100,"msg":"teardown failed"}'; exit 1"#,
        );
        let expected = "prefix: cni down: del network failed: plugin type=\"cni-wrapper-plugin\" \
                        failed (delete): teardown failed";
        fails(&mut action("down", HANDLE), "null", expected);
        assert!(bind_mount(HANDLE).exists());
        assert_eq!(acquired()[HANDLE], json!([61000, 61001]));
        unscript("cni-wrapper-plugin", "DEL");
        down(HANDLE);
        assert_eq!(told("cni-wrapper-plugin", "DEL")["prevResult"], result());
    });
}

#[test]
fn failures_of_the_rest_are_only_told() {
    on_cell(|| {
        let container = Container::start();
        up(&container, HANDLE);
        write(STATE, "{");
        let done = run(&mut action("down", HANDLE), "null");
        assert_eq!((done.status, done.output.as_str()), (Some(0), ""));
        let expected = format!(
            "releasing ports: decoding state file: {STATE}: EOF while parsing an object at line 1 \
             column 1\n"
        );
        assert_eq!(done.errors, expected);
        assert!(!bind_mount(HANDLE).exists());

        std::fs::create_dir_all(bind_mount(HANDLE).join("x")).unwrap();
        write(STATE, "");
        let done = run(&mut action("down", HANDLE), "null");
        assert_eq!(done.status, Some(0));
        let expected = format!("removing bind mount {}: ", bind_mount(HANDLE).display());
        assert!(done.errors.starts_with(&expected), "{}", done.errors);
    });
}

#[test]
fn without_a_network_the_rest_goes() {
    on_cell(|| {
        let container = Container::start();
        up(&container, HANDLE);
        std::fs::remove_file(CONFLIST).unwrap();
        assert_eq!(run(&mut action("down", HANDLE), "null").status, Some(0));
        assert!(!bind_mount(HANDLE).exists());
        assert_eq!(acquired(), json!({}));
    });
}
