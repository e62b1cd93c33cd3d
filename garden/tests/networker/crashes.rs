//! A call that is killed: the next one mends what it left, and is not overtaken by its plugin.

use std::fs;

use crate::world::{
    Container, HANDLE, PLUGINS, STATE, action, calls, down, finish, on_cell, run, script, start,
    unscript, up, write,
};

/// Where the call is killed: plugin and command.
const PLACES: [(&str, &str); 4] = [
    ("cni-wrapper-plugin", "ADD"),
    ("bandwidth", "ADD"),
    ("bandwidth", "DEL"),
    ("cni-wrapper-plugin", "DEL"),
];

/// Kills a call while one of its plugins runs.
fn killed(container: &Container, plugin: &str, command: &str, behaviour: &str) {
    script(plugin, command, behaviour);
    let done = if command == "ADD" {
        run(&mut action("up", HANDLE), &container.wish().to_string())
    } else {
        up(container, HANDLE);
        run(&mut action("down", HANDLE), "null")
    };
    assert_eq!((done.status, done.output.as_str()), (None, ""), "{plugin} {command}");
    unscript(plugin, command);
}

#[test]
fn a_killed_call_is_mended_by_the_next() {
    for (plugin, command) in PLACES {
        on_cell(|| {
            let container = Container::start();
            killed(&container, plugin, command, "kill -9 $PPID");
            up(&container, HANDLE);
            down(HANDLE);
            killed(&container, plugin, command, "kill -9 $PPID");
            down(HANDLE);
        });
    }
}

#[test]
fn the_plugin_of_a_killed_call_is_waited_for() {
    for (plugin, command) in PLACES {
        on_cell(|| {
            let container = Container::start();
            let behaviour = "kill -9 $PPID\n\
                             until [ -e \"$dir/go-on\" ]; do sleep 0.01; done\n\
                             echo \"END $me\" >> \"$dir/calls\"";
            killed(&container, plugin, command, behaviour);
            let before = calls().len();
            let next = start(&mut action("down", HANDLE), "null");
            write(&format!("{PLUGINS}/go-on"), "");
            assert_eq!(finish(next).status, Some(0));
            let after = calls().split_off(before);
            let expected = [
                format!("END {plugin}"),
                format!("DEL bandwidth {HANDLE}"),
                format!("DEL cni-wrapper-plugin {HANDLE}"),
            ];
            assert_eq!(after, expected);
            down(HANDLE);
        });
    }
}

#[test]
fn files_that_were_not_finished_are_no_obstacle() {
    on_cell(|| {
        let container = Container::start();
        let result = format!("/var/lib/cni/results/cni-wrapper-{HANDLE}-eth0.new");
        write(&format!("{STATE}_new"), "{\"acq");
        write(&result, "{\"ki");
        up(&container, HANDLE);
        write(&format!("{STATE}_new"), "{\"acq");
        write(&result, "{\"ki");
        down(HANDLE);
        assert!(!fs::exists(&result).unwrap());
        assert!(!fs::exists(format!("{STATE}_new")).unwrap());
    });
}
