//! `sarcenet agent --drain` and `--teardown`.

use std::process::Command;

use nix::sys::signal::Signal;
use sarcenet_control::netlink::Netlink;

use crate::world::{Namespace, UNDERLAY, World, eventually, in_cell};

/// Runs a command of the agent; its exit status and what it said last.
fn leave(world: &World, words: &[&str]) -> (Option<i32>, String) {
    let mut all = vec!["agent", "--log", "json"];
    all.extend(words);
    let ended = world.command(&all).output().unwrap();
    let text = String::from_utf8(ended.stderr).unwrap();
    (ended.status.code(), text.lines().last().unwrap_or_default().to_owned())
}

fn has_device() -> bool {
    Netlink::open().unwrap().link("sarcenet0").unwrap().is_some()
}

#[test]
fn a_drained_cell_is_left_without_a_trace() {
    in_cell(|world| {
        let (_control, fake) = (world.servers.start(), world.dataplane());
        let agent = world.agent();
        let container = Namespace::new("one");
        let id = world.add(&container).id;
        let mut drain = world.command(&["agent", "--drain"]).spawn().unwrap();
        // As long as there is a container, the agent goes on.
        eventually("in force", || fake.told.lock().containers.len() == 1);
        assert!(drain.try_wait().unwrap().is_none());
        world.client().del(id).unwrap();
        assert_eq!(drain.wait().unwrap().code(), Some(0));
        assert_eq!(agent.ended().0, Some(0));
        assert_eq!(world.leases().len(), 1);
        assert!(has_device() && world.root.lease_file().exists());

        drop(fake.die());
        assert_eq!(leave(world, &["--teardown"]).0, Some(0));
        assert_eq!(world.leases(), []);
        assert!(!has_device() && !world.root.lease_file().exists());
        assert_eq!(leave(world, &["--drain", "--teardown"]).0, Some(0), "nothing is left to do");
    });
}

#[test]
fn containers_are_not_waited_for_without_end() {
    in_cell(|world| {
        let (_control, _fake) = (world.servers.start(), world.dataplane());
        let agent = world.agent();
        let container = Namespace::new("one");
        world.add(&container);
        assert_eq!(leave(world, &["--drain", "--drain-limit", "0"]).0, Some(0));
        assert_eq!(agent.ended().0, Some(0));
        assert_eq!(world.leases()[0].1, UNDERLAY);
    });
}

#[test]
fn what_can_be_removed_is_though_no_server_answers() {
    in_cell(|world| {
        let control = world.servers.start();
        let agent = world.agent();
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
        control.end(Signal::SIGTERM);
        let (status, last) = leave(world, &["--teardown"]);
        assert_eq!(status, Some(1));
        assert!(last.starts_with("sarcenet: cannot release the lease: no answer from"), "{last}");
        assert!(!has_device() && !world.root.lease_file().exists());
    });
}

#[test]
fn the_dataplanes_filter_goes_when_no_dataplane_runs() {
    in_cell(|world| {
        let tc = |words: &str, program: &[&str]| {
            let done = Command::new("tc").args(words.split(' ')).args(program).output().unwrap();
            assert!(done.status.success(), "{done:?}");
            String::from_utf8(done.stdout).unwrap()
        };
        let _control = world.servers.start();
        tc("qdisc add dev underlay0 clsact", &[]);
        for (priority, handle) in [(21_313, "0x53415243"), (21_314, "0x53415243"), (21_315, "1")] {
            let add = format!("filter add dev underlay0 ingress protocol all pref {priority}");
            let program = ["handle", handle, "bpf", "direct-action", "bytecode", "1,6 0 0 0"];
            tc(&add, &program);
        }
        let filters = || {
            let shown = tc("filter show dev underlay0 ingress", &[]);
            [21_313, 21_314, 21_315]
                .map(|pref| shown.contains(&format!("pref {pref} bpf chain 0 handle")))
        };
        assert_eq!(filters(), [true; 3]);
        let fake = world.dataplane();
        assert_eq!(leave(world, &["--teardown"]).0, Some(0));
        assert_eq!(filters(), [true; 3], "a dataplane that runs needs it");
        drop(fake.die());
        assert_eq!(leave(world, &["--teardown"]).0, Some(0));
        assert_eq!(filters(), [false, true, true]);
    });
}
