//! What the package is made of is there, its links lead to something, and its examples work.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use sarcenet_control::cli::Cli;
use sarcenet_control::config::{ControlSpec, Network};
use sarcenet_control::paths::Root;
use serde_json::Value;
use tempfile::TempDir;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Where the manual pages are when the package is made.
const PAGES: &str = "../target/package/man";

/// The names in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// What cargo says of the workspace.
fn workspace() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version=1"]);
    let output = cargo.current_dir(HERE).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packages(workspace: &Value) -> &Vec<Value> {
    workspace["packages"].as_array().unwrap()
}

/// Names of the programs of the workspace.
fn programs(workspace: &Value) -> BTreeSet<String> {
    let targets = packages(workspace).iter().flat_map(|p| p["targets"].as_array().unwrap());
    targets
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| target["name"].as_str().unwrap().to_owned())
        .collect()
}

/// From where to where files go, as the package's metadata say.
fn assets(workspace: &Value) -> Vec<(String, String)> {
    let package = packages(workspace).iter().find(|p| p["name"] == "sarcenet-packaging").unwrap();
    let assets = package["metadata"]["deb"]["assets"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assets.iter().map(|asset| (text(&asset[0]), text(&asset[1]))).collect()
}

/// The manual pages that `sarcenet-man` writes.
fn pages() -> BTreeSet<String> {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sarcenet-man"));
    assert!(command.arg(directory.path()).status().unwrap().success());
    for name in names(directory.path()) {
        let text = fs::read_to_string(directory.path().join(&name)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{name}: {text}");
    }
    names(directory.path())
}

#[test]
fn what_is_packed_is_there() {
    let workspace = workspace();
    let programs = programs(&workspace);
    for (source, _) in assets(&workspace) {
        if let Some(program) = source.strip_prefix("target/release/") {
            assert!(programs.contains(program), "{source}");
        } else if let Some(directory) = source.strip_suffix("/*").filter(|&path| path != PAGES) {
            assert!(!names(&Path::new(HERE).join(directory)).is_empty(), "{source}");
        } else if let Some(directory) = source.strip_suffix("/*.md") {
            let found = names(&Path::new(HERE).join(directory));
            let is_text = |name: &String| Path::new(name).extension() == Some(OsStr::new("md"));
            assert!(found.iter().any(is_text), "{source}");
        } else if source != format!("{PAGES}/*") {
            assert!(Path::new(HERE).join(&source).is_file(), "{source}");
        }
    }
}

/// Where a link at `link` that says `target` leads to, both without the first `/`.
fn followed(link: &Path, target: &Path) -> PathBuf {
    let mut path = link.parent().unwrap().to_owned();
    for component in target.components() {
        match component {
            Component::RootDir => path.clear(),
            Component::ParentDir => assert!(path.pop(), "{}", target.display()),
            other => path.push(other),
        }
    }
    path
}

#[test]
fn links_lead_to_programs_of_the_package() {
    let assets = assets(&workspace());
    let installed: BTreeSet<_> = assets
        .iter()
        .filter_map(|(source, to)| Some(format!("{to}{}", source.strip_prefix("target/release/")?)))
        .collect();
    let roots = assets.iter().filter_map(|(source, to)| {
        let directory = source.strip_suffix("/*")?;
        directory.starts_with("root/").then(|| (Path::new(HERE).join(directory), to))
    });
    let mut seen = 0;
    for (directory, to) in roots {
        assert_eq!(Path::new(HERE).join("root").join(to.trim_end_matches('/')), directory);
        for name in names(&directory) {
            let path = directory.join(&name);
            if path.is_dir() && !path.is_symlink() {
                continue;
            }
            let target = fs::read_link(&path).unwrap();
            let end = followed(&Path::new(to).join(&name), &target);
            assert!(installed.contains(end.to_str().unwrap()), "{to}{name}: {}", end.display());
            seen += 1;
        }
    }
    assert_eq!(seen, 16);
}

/// Under its own name and for each name that it answers to.
#[test]
fn every_program_that_is_replaced_has_its_name() {
    let root = Path::new(HERE).join("root/usr/lib/sarcenet");
    let command = Cli::command();
    let program = command
        .find_subcommand("as")
        .and_then(|command| command.get_arguments().find(|argument| argument.get_id() == "program"))
        .unwrap();
    let values = program.get_possible_values();
    let mut expected: BTreeSet<_> =
        values.iter().map(|value| value.get_name().to_owned()).collect();
    expected.extend(set(["cni", "garden-external-networker"]));
    assert_eq!(names(&root), expected);
    let plugins = set(["bandwidth", "cni-wrapper-plugin", "sarcenet-cni", "silk-cni"]);
    assert_eq!(names(&root.join("cni")), plugins);
}

#[test]
fn every_command_has_a_manual_page() {
    let pages = pages();
    for name in ["sarcenet", "sarcenet-agent", "sarcenet-dataplane", "sarcenet-policy-allow"] {
        assert!(pages.contains(&format!("{name}.1")), "{name}: {pages:?}");
    }
    let by_hand = names(&Path::new(HERE).join("man"));
    assert_eq!(by_hand, set(["sarcenet-cni.1", "sarcenet-garden.1"]));
    for unit in names(&Path::new(HERE).join("systemd")) {
        let text = fs::read_to_string(Path::new(HERE).join("systemd").join(&unit)).unwrap();
        let page = text.lines().find_map(|line| line.strip_prefix("Documentation=man:")).unwrap();
        assert!(pages.contains(&page.replace('(', ".").replace(')', "")), "{unit}: {page}");
    }
}

#[test]
fn examples_have_no_mistakes() {
    let examples = Path::new(HERE).join("examples");
    let mut seen = BTreeSet::new();
    for name in names(&examples) {
        let path = examples.join(&name);
        if name.starts_with("network") {
            Network::load(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        } else if name == "control.yaml" {
            ControlSpec::load(&path, &Root::new("/")).unwrap();
        } else {
            assert_eq!(path.extension(), Some(OsStr::new("conflist")), "{name}");
            let list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(list["plugins"][0]["type"], "sarcenet-cni", "{name}");
        }
        seen.insert(name);
    }
    let expected = ["10-sarcenet.conflist", "87-sarcenet-podman.conflist", "control.yaml"];
    let expected = [&expected[..], &["network-following.yaml", "network.yaml"]].concat();
    assert_eq!(seen, expected.into_iter().map(str::to_owned).collect());
}
