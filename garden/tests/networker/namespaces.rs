//! Which namespace is mounted where, whatever was there before.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::json;

use crate::world::{
    CONFIG, Container, HANDLE, MOUNTS, PROGRAM, action, bind_mount, down, fails, on_cell, same,
    succeeds, up,
};

fn bind(source: &Path, target: &Path) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

fn touch(path: &Path) {
    fs::create_dir_all(MOUNTS).unwrap();
    fs::write(path, "").unwrap();
}

/// What an earlier call may have left, and that the next one, whichever it is, mends it.
#[test]
fn leftovers_are_used_or_replaced() {
    type Leave = fn(&Container, &Container);
    let table: &[(&str, Leave)] = &[
        ("nothing", |_, _| {}),
        ("a file without a mount", |_, _| touch(&bind_mount(HANDLE))),
        ("the mount", |ours, _| {
            touch(&bind_mount(HANDLE));
            bind(&ours.namespace(), &bind_mount(HANDLE));
        }),
        ("the mount twice", |ours, _| {
            touch(&bind_mount(HANDLE));
            bind(&ours.namespace(), &bind_mount(HANDLE));
            bind(&ours.namespace(), &bind_mount(HANDLE));
        }),
        ("another namespace", |_, other| {
            touch(&bind_mount(HANDLE));
            bind(&other.namespace(), &bind_mount(HANDLE));
        }),
        ("another one below ours", |ours, other| {
            touch(&bind_mount(HANDLE));
            bind(&other.namespace(), &bind_mount(HANDLE));
            bind(&ours.namespace(), &bind_mount(HANDLE));
        }),
    ];
    for (what, leave) in table {
        println!("{what}");
        on_cell(|| {
            let (ours, other) = (Container::start(), Container::start());
            leave(&ours, &other);
            up(&ours, HANDLE);
            assert!(same(&bind_mount(HANDLE), &ours.namespace()), "{what}");
            down(HANDLE);
        });
        on_cell(|| {
            let (ours, other) = (Container::start(), Container::start());
            leave(&ours, &other);
            down(HANDLE);
        });
    }
}

#[test]
fn a_namespace_may_come_as_descriptor_3() {
    on_cell(|| {
        let container = Container::start();
        let wish = json!({"Pid": 0}).to_string();
        let redirected = |what: &str| {
            let mut command = Command::new("sh");
            let words = r#"exec "$0" --configFile="$1" --action up --handle "$2" 3<"#;
            command.args(["-c", &format!("{words}{what}"), PROGRAM, CONFIG, HANDLE]);
            command
        };
        let with = |source: &Path| redirected(source.to_str().unwrap());
        succeeds(&mut with(&container.namespace()), &wish);
        assert!(same(&bind_mount(HANDLE), &container.namespace()));
        down(HANDLE);

        let failed = |why: &str| {
            format!("prefix: failed mounting /proc/self/fd/3 to {MOUNTS}/{HANDLE}: {why}")
        };
        let none = failed("neither a pid nor descriptor 3 came from Garden");
        fails(&mut redirected("&-"), &wish, &none);
        fails(&mut redirected("&-"), "null", &none);
        let wrong = failed("it is not a network namespace");
        fails(&mut with(Path::new(CONFIG)), &wish, &wrong);
        fails(&mut with(&container.namespace().with_file_name("mnt")), &wish, &wrong);
        assert!(!bind_mount(HANDLE).exists());
    });
}

#[test]
fn a_process_that_has_gone_has_no_namespace() {
    on_cell(|| {
        let container = Container::start();
        let (wish, namespace) = (container.wish().to_string(), container.namespace());
        drop(container);
        let expected = format!(
            "prefix: failed mounting {} to {MOUNTS}/{HANDLE}: No such file or directory (os error \
             2)",
            namespace.display()
        );
        fails(&mut action("up", HANDLE), &wish, &expected);
        down(HANDLE);
    });
}
