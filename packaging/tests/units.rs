//! The systemd units: systemd takes every line of them, and what they leave open is known.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Each unit, and how much it leaves open in tenths, as `systemd-analyze security` of systemd 252
/// counts it: 100 is everything. More takes a reason, in the unit.
const UNITS: [(&str, u8); 3] =
    [("sarcenet-agent", 34), ("sarcenet-control", 13), ("sarcenet-dataplane", 29)];

/// What the units name and others bring.
const TARGETS: [&str; 6] =
    ["basic", "multi-user", "network", "network-online", "shutdown", "sysinit"];
const PROGRAMS: [&str; 3] = ["usr/bin/sarcenet", "usr/bin/sarcenet-dataplane", "bin/sh"];

/// A machine with the units and what they name, and nothing else.
fn machine() -> TempDir {
    let root = TempDir::new().unwrap();
    let units = root.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&units).unwrap();
    for target in TARGETS {
        let text = format!("[Unit]\nDescription={target}\n");
        fs::write(units.join(target).with_extension("target"), text).unwrap();
    }
    for program in PROGRAMS {
        let path = root.path().join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (name, _) in UNITS {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
        let source = source.with_extension("service");
        fs::copy(source, units.join(name).with_extension("service")).unwrap();
    }
    root
}

fn analyze(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(words).arg("--root").arg(root).env("SYSTEMD_COLORS", "0");
    command.output().expect("systemd-analyze is in Debian's package systemd")
}

#[test]
fn there_are_no_others() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut found: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, UNITS.map(|(name, _)| format!("{name}.service")));
}

#[test]
fn systemd_takes_every_line() {
    let root = machine();
    for (name, _) in UNITS {
        let unit = root.path().join(format!("usr/lib/systemd/system/{name}.service"));
        // Lines that it does not know are told and are no failure.
        let output = analyze(root.path(), &["verify", "--man=no", unit.to_str().unwrap()]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.is_empty(), "{name}: {told}");
    }
}

#[test]
fn what_is_left_open_is_known() {
    let root = machine();
    for (name, open) in UNITS {
        let within = |threshold: u8| {
            let (threshold, unit) = (format!("--threshold={threshold}"), format!("{name}.service"));
            analyze(root.path(), &["security", "--offline=true", "--no-pager", &threshold, &unit])
        };
        let output = within(open);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(!within(open - 1).status.success(), "{name} leaves less open: say so above");
    }
}
