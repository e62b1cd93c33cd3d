//! Security groups from a file.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::world::{Control, EVERYTHING, World};

const FILE: &str = "etc/sarcenet/security-groups.yaml";

/// Groups of these names, for the space `s` each.
fn groups(names: &[&str]) -> String {
    let group = |name: &&str| {
        format!(
            "  - name: {name}\n    rules: [{{protocol: tcp, destination: 10.0.0.0/8, ports: 443}}]\n    \
             spaces: [s]\n"
        )
    };
    format!("security_groups:\n{}", names.iter().map(group).collect::<String>())
}

fn world() -> World {
    let world = World::new(&format!(
        "{EVERYTHING}security_groups: {{file: /{FILE}}}\nroles: [policy-server]\n"
    ));
    fs::write(world.path(FILE), groups(&["one"])).unwrap();
    world
}

async fn told(control: &Control) -> Vec<String> {
    let path = "/networking/v1/internal/security_groups?space_guids=s";
    let (status, body) = control.ask("internal", "GET", path, "").await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let names = answer["security_groups"].as_array().unwrap().iter();
    names.map(|group| group["name"].as_str().unwrap().to_owned()).collect()
}

/// Waits until cells are told these groups.
async fn until_told(control: &Control, names: &[&str]) {
    let waiting = async {
        while told(control).await != names {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), waiting).await;
    assert!(waited.is_ok(), "cells are never told {names:?}");
}

async fn metrics(control: &Control) -> String {
    control.plain("status", "GET", "/metrics", "").await.1
}

#[tokio::test]
async fn what_the_file_says_is_told_to_cells_as_soon_as_it_changes() {
    let world = world();
    let mut control = world.start();
    until_told(&control, &["one"]).await;
    // Written in place, and replaced by another file.
    fs::write(world.path(FILE), groups(&["one", "two"])).unwrap();
    until_told(&control, &["one", "two"]).await;
    let replace = |text: &str| {
        let new: PathBuf = world.path("etc/sarcenet/new");
        fs::write(&new, text).unwrap();
        fs::rename(new, world.path(FILE)).unwrap();
    };
    replace(&groups(&["two"]));
    until_told(&control, &["two"]).await;

    // What has mistakes is not used, and neither is what is gone.
    replace(&groups(&["three"]).replace("443", "99999"));
    let said = control.logged("the file of security groups is not used: ");
    assert!(
        said["message"].as_str().unwrap().contains(":3:61: rule 1 of security group `three`"),
        "{said}"
    );
    assert!(metrics(&control).await.contains("sarcenet_security_group_file_mistakes 1\n"));
    assert_eq!(told(&control).await, ["two"]);
    fs::remove_file(world.path(FILE)).unwrap();
    control.logged("the file of security groups is not used: cannot read ");
    assert_eq!(told(&control).await, ["two"]);
    replace("security_groups: []");
    control.logged("the file of security groups is used again");
    until_told(&control, &[]).await;
    let metrics = metrics(&control).await;
    assert!(metrics.contains("sarcenet_security_group_file_mistakes 0\n"), "{metrics}");
    assert!(
        metrics.contains("sarcenet_security_group_syncs_total{result=\"changed\"} 4\n"),
        "{metrics}"
    );
    assert_eq!(control.end(Signal::SIGTERM), Some(0));
}

#[tokio::test]
async fn a_server_that_starts_over_a_broken_file_tells_what_it_told_before() {
    let world = world();
    let control = world.start();
    until_told(&control, &["one"]).await;
    assert_eq!(control.end(Signal::SIGTERM), Some(0));
    fs::write(world.path(FILE), "security_groups: nonsense").unwrap();
    let mut control = world.start();
    control.logged("security groups stay as the database has them");
    assert_eq!(told(&control).await, ["one"]);
    // The one before has let go of what only one may do.
    fs::write(world.path(FILE), groups(&["two"])).unwrap();
    until_told(&control, &["two"]).await;
    let checked = world.run(&["control", "--check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    fs::write(world.path(FILE), "").unwrap();
    let checked = world.run(&["control", "--check"]);
    let text = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        text.contains(
            "security-groups.yaml:1:1: the file of security groups has no `security_groups`"
        ),
        "{text}"
    );
}
