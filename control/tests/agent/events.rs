//! Events of conversations: who follows them, and what is written.

use std::os::fd::AsFd;
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use sarcenet_agent_api::{LoggingChange, LoggingStatus};
use sarcenet_dataplane_api::{Event, EventKind, PortId};
use serde_json::Value;

use crate::fake::Fake;
use crate::world::{NETWORK, Namespace, World, eventually, in_cell};

const BOTH: LoggingChange = LoggingChange { overlay: Some(true), egress: Some(true) };
const NONE: LoggingChange = LoggingChange { overlay: Some(false), egress: Some(false) };

/// A refused packet of the cell's first container.
fn refused(source_port: u16) -> Event {
    let container = [10, 255, 55, 2].into();
    Event {
        at_ns: 1_700_000_000_000_000_000,
        kind: EventKind::EgressDenied,
        port: PortId(2),
        container,
        tag: 1,
        protocol: 6,
        source: std::net::SocketAddrV4::new(container, source_port),
        destination: "192.0.2.1:443".parse().unwrap(),
        rule: None,
    }
}

fn switch(world: &World, change: LoggingChange) -> LoggingStatus {
    world.client().logging(change).unwrap()
}

fn status(world: &World) -> LoggingStatus {
    switch(world, LoggingChange::default())
}

/// All lines of the file, each of which must be an object.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(value.is_object(), "{line}");
        value
    };
    text.lines().map(object).collect()
}

/// Source ports of the lines, in their order.
fn ports(path: &Path) -> Vec<u64> {
    lines(path).iter().filter_map(|line| line["source_port"].as_u64()).collect()
}

fn followed(fake: &Fake) {
    eventually("somebody follows", || fake.followers() == 1);
}

#[test]
fn events_are_written_in_the_words_of_the_platform_while_they_are_wanted() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        world.add(&one, "app-a");
        let path = world.root.events_file();
        let before = status(world);
        assert!(!before.overlay && !before.egress);
        assert_eq!((fake.followers(), path.exists()), (0, false));

        let overlay = LoggingChange { overlay: Some(true), egress: None };
        assert_eq!(switch(world, overlay), LoggingStatus { overlay: true, ..before });
        let logging = fake.told.lock().cell.as_ref().unwrap().logging;
        assert!(logging.overlay && !logging.egress, "in force when the switch answers");
        followed(&fake);
        let stranger = Event { container: [10, 255, 55, 77].into(), ..refused(2) };
        fake.tell(&[refused(1), stranger], 5);
        eventually("written", || status(world).written == 2);
        let written = lines(&path);
        assert_eq!((&written[0]["event"], &written[0]["lost"]), (&"events_lost".into(), &5.into()));
        for (key, value) in [
            ("time", "2023-11-14T22:13:20.000000Z"),
            ("cell", "cell1"),
            ("container", "one"),
            ("app", "app-a"),
            ("source_app", "app-a"),
            ("event", "egress_denied"),
            ("prefix", "DENY_one"),
        ] {
            assert_eq!(written[1][key], value);
        }
        assert_eq!((&written[2]["container"], &written[2]["app"]), (&Value::Null, &Value::Null));
        assert_eq!(status(world).lost, 5);

        switch(world, NONE);
        assert!(!fake.told.lock().cell.as_ref().unwrap().logging.overlay);
        eventually("nobody follows", || fake.followers() == 0);
        switch(world, BOTH);
        followed(&fake);
        fake.tell(&[refused(3)], 0);
        eventually("written", || ports(&path) == [1, 2, 3]);
    });
}

#[test]
fn events_go_on_after_either_side_was_restarted() {
    in_cell(|world| {
        let (fake, agent) = (world.dataplane(), world.agent());
        let path = world.root.events_file();
        switch(world, BOTH);
        followed(&fake);
        fake.tell(&[refused(1)], 0);
        eventually("written", || ports(&path) == [1]);

        drop(fake.die());
        let fake = world.dataplane();
        followed(&fake);
        fake.tell(&[refused(2)], 0);
        eventually("written", || ports(&path) == [1, 2]);
        assert!(fake.told.lock().cell.as_ref().unwrap().logging.egress);

        // What was switched by hand goes with the agent.
        drop(agent);
        eventually("nobody follows", || fake.followers() == 0);
        let _agent = world.agent();
        eventually("told", || world.client().status().unwrap().dataplane.ready);
        assert!(!fake.told.lock().cell.as_ref().unwrap().logging.egress);
        switch(world, BOTH);
        followed(&fake);
        fake.tell(&[refused(3)], 0);
        eventually("written", || ports(&path) == [1, 2, 3]);
    });
}

#[test]
fn the_network_file_switches_too_and_names_the_file() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let mut wish = one.wish("app-a");
        wish.terms.metadata.space_id = Some("space-s".into());
        wish.terms.metadata.org_id = Some("org-o".into());
        world.client().add(wish, one.netns.as_fd()).unwrap();
        switch(world, LoggingChange { egress: Some(true), overlay: None });
        followed(&fake);

        let network = "outside:\n  snat_ports: 20000-20999\n  logging: ";
        let with = |logging: &str| format!("{NETWORK}{network}{logging}\n");
        std::fs::write(world.network(), with("{c2c: true, denied_per_sec: 7, file: /x/y}"))
            .unwrap();
        eventually("as the file says", || {
            let now = status(world);
            (now.overlay, now.egress, now.denied_per_second) == (true, false, 7)
        });
        let path = world.root.below(Path::new("/x/y"));
        assert_eq!(status(world).file, path.display().to_string());
        fake.tell(&[refused(1)], 0);
        eventually("written there", || ports(&path) == [1]);
        let written = &lines(&path)[0];
        assert_eq!(
            (&written["space"], &written["organisation"]),
            (&"space-s".into(), &"org-o".into())
        );
        // A change of something else leaves a switch alone.
        switch(world, NONE);
        std::fs::write(
            world.network(),
            with("{c2c: true, denied_per_sec: 7, file: /x/y}").replace("20999", "20998"),
        )
        .unwrap();
        eventually("read", || {
            let told = fake.told.lock();
            let outside = told.cell.as_ref().and_then(|cell| cell.outside.clone());
            outside.is_some_and(|outside| outside.snat_ports.is_some_and(|r| r.last == 20_998))
        });
        assert!(!status(world).overlay);
        eventually("nobody follows", || fake.followers() == 0);

        // A limit that asks for records has them followed.
        let limit = "\n  outbound_connections: {limit: true, logging: true}";
        std::fs::write(world.network(), with(&format!("{{c2c: false}}{limit}"))).unwrap();
        followed(&fake);
        assert!(!status(world).overlay && !status(world).egress);
    });
}

#[test]
fn a_full_disk_loses_events_and_nothing_else() {
    in_cell(|world| {
        // Of this thread and of those that the agent starts from it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let path = world.root.events_file();
        let disk = path.parent().unwrap();
        std::fs::create_dir_all(disk).unwrap();
        mount(Some("none"), disk, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fill(world, &path)));
        umount(disk).unwrap();
        told.unwrap();
    });
}

fn fill(world: &World, path: &Path) {
    let (fake, _agent) = (world.dataplane(), world.agent());
    let one = Namespace::new("one");
    world.add(&one, "app-a");
    switch(world, BOTH);
    followed(&fake);
    let page: Vec<_> = (0..100).map(refused).collect();
    let mut told = 0;
    while status(world).lost == 0 {
        fake.tell(&page, 0);
        told += 100;
        eventually("dealt with", || {
            let LoggingStatus { written, lost, .. } = status(world);
            written + lost == told
        });
        assert!(told < 10_000, "the disk is never full");
    }
    let full = status(world);
    assert_eq!(ports(path).len() as u64, full.written, "whole lines, and all that were counted");
    let problem = full.problem.unwrap();
    assert!(problem.contains("No space left") && problem.contains("make room"), "{problem}");
    let problems = world.client().status().unwrap().problems;
    assert!(problems[0].contains("events of conversations are lost"), "{problems:?}");
    // Nobody waits for the disk.
    let two = Namespace::new("two");
    world.add(&two, "app-b");
    world.client().del(two.id()).unwrap();

    std::fs::remove_file(path).unwrap();
    fake.tell(&[refused(7)], 0);
    eventually("written again", || ports(path) == [7]);
    eventually("well again", || status(world).problem.is_none());
    assert_eq!(status(world).lost, full.lost);
    assert_eq!(world.client().status().unwrap().problems, Vec::<String>::new());
}
