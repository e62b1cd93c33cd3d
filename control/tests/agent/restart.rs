//! Either side dies and comes back.

use std::os::fd::AsFd;

use sarcenet_agent_api::{ErrorCode, Expected};
use sarcenet_control::agent::{Agent, StartError};
use sarcenet_control::host::DEVICE;
use sarcenet_control::netlink::Netlink;
use sarcenet_dataplane_api::PortId;

use crate::world::{NETWORK, Namespace, eventually, in_cell, with_address};

#[test]
fn a_new_dataplane_is_told_everything() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        world.add(&one, "app-a");
        world.add(&two, "app-b");
        let before = fake.told.lock().generation;
        drop(fake.die());
        eventually("noticed", || !world.client().status().unwrap().dataplane.ready);
        assert!(one.has_eth0(), "containers keep their interface");

        let fake = world.dataplane();
        eventually("told", || world.client().status().unwrap().dataplane.ready);
        let told = fake.told.lock();
        assert_eq!((told.snapshots, told.updates.len()), (1, 0));
        assert_eq!(told.containers.keys().collect::<Vec<_>>(), [&PortId(2), &PortId(3)]);
        assert!(told.host.is_some() && told.peers.contains_key("10.255.62.0/24"));
        assert!(told.generation > before, "generations never go back");
    });
}

#[test]
fn a_new_agent_takes_the_queues_from_the_dataplane() {
    in_cell(|world| {
        let fake = world.dataplane();
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        let addresses = {
            let _agent = world.agent();
            [world.add(&one, "app-a").address, world.add(&two, "app-b").address]
        };
        assert_eq!(fake.told.lock().containers.len(), 2, "an agent's death changes nothing");
        let host = || Netlink::open().unwrap().link(DEVICE).unwrap().unwrap().index;
        let before = host();
        let agent = world.agent();
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(host(), before, "the cell's own device is not made anew");
        assert!(fake.told.lock().host.is_some());
        assert_eq!(fake.told.lock().containers.len(), 2);
        let mut client = world.client();
        client.check(one.id(), with_address(addresses[0]), one.netns.as_fd()).unwrap();
        client.check(two.id(), with_address(addresses[1]), two.netns.as_fd()).unwrap();
        assert_eq!(client.status().unwrap().problems, Vec::<String>::new());
        // Addresses go on behind the last one.
        let three = Namespace::new("three");
        assert_eq!(world.add(&three, "app-a").address.to_string(), "10.255.55.4");
        drop(agent);
    });
}

#[test]
fn when_both_died_interfaces_are_made_anew() {
    in_cell(|world| {
        let (one, gone) = (Namespace::new("one"), Namespace::new("gone"));
        let gone_id = gone.id();
        let address = {
            let (_fake, _agent) = (world.dataplane(), world.agent());
            world.add(&gone, "app-a");
            world.add(&one, "app-a").address
        };
        drop(gone);
        eventually("without a holder there is no device", || !one.has_eth0());
        let (fake, _agent) = (world.dataplane(), world.agent());
        eventually("told", || fake.told.lock().snapshots == 1);
        assert_eq!(fake.told.lock().containers.keys().collect::<Vec<_>>(), [&PortId(3)]);
        let mut client = world.client();
        client.check(one.id(), with_address(address), one.netns.as_fd()).unwrap();
        assert_eq!(one.addresses(), [(address, 32)]);
        let problems = client.status().unwrap().problems;
        assert!(problems[0].starts_with("container gone eth0 has no interface: "), "{problems:?}");
        client.del(gone_id).unwrap();
        assert_eq!(client.status().unwrap().problems, Vec::<String>::new());
    });
}

#[test]
fn a_foreign_device_is_not_taken_for_ours_nor_removed() {
    in_cell(|world| {
        let one = Namespace::new("one");
        {
            let (_fake, _agent) = (world.dataplane(), world.agent());
            world.add(&one, "app-a");
        }
        eventually("without a holder there is no device", || !one.has_eth0());
        let foreign = one.foreign_eth0();
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let mut client = world.client();
        eventually("told", || client.status().unwrap().dataplane.ready);
        let problems = client.status().unwrap().problems;
        assert!(problems[0].contains("has a device eth0 already"), "{problems:?}");
        client.del(one.id()).unwrap();
        assert!(one.has_eth0());
        drop(foreign);
        world.add(&one, "app-a");
    });
}

#[test]
fn a_queue_without_a_device_spoils_nothing() {
    in_cell(|world| {
        let (one, gone) = (Namespace::new("one"), Namespace::new("gone"));
        let (fake, agent) = (world.dataplane(), world.agent());
        world.add(&one, "app-a");
        world.add(&gone, "app-a");
        drop(gone);
        let lost = |problems: &[String]| problems.len() == 1 && problems[0].contains("gone eth0");
        eventually("noticed", || lost(&world.client().status().unwrap().problems));
        // A new agent does not take it from the dataplane.
        drop(agent);
        let _agent = world.agent();
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(fake.told.lock().containers.keys().collect::<Vec<_>>(), [&PortId(2)]);
        assert!(lost(&world.client().status().unwrap().problems));
        world.client().check(one.id(), Expected::default(), one.netns.as_fd()).unwrap();
    });
}

#[test]
fn queues_that_the_dataplane_holds_are_not_opened_twice() {
    in_cell(|world| {
        let one = Namespace::new("one");
        let told = {
            let (fake, _agent) = (world.dataplane(), world.agent());
            world.add(&one, "app-a");
            fake.die()
        };
        // The queue is still open in there, so that opening it again would fail.
        let fake = world.dataplane_with(told);
        let _agent = world.agent();
        eventually("told", || fake.told.lock().snapshots == 2);
        assert_eq!(world.client().status().unwrap().problems, Vec::<String>::new());
        assert!(world.client().containers().unwrap()[0].connected);
    });
}

#[test]
fn a_damaged_state_file_is_replaced_by_its_copy() {
    in_cell(|world| {
        let fake = world.dataplane();
        let one = Namespace::new("one");
        {
            let _agent = world.agent();
            world.add(&one, "app-a");
        }
        std::fs::write(world.root.state_file(), "{\"format\":1,").unwrap();
        let _agent = world.agent();
        eventually("told again", || fake.told.lock().snapshots == 2);
        assert_eq!(fake.told.lock().containers.len(), 1);
        let problems = world.client().status().unwrap().problems;
        assert!(problems[0].contains("went on with the copy"), "{problems:?}");
        let two = Namespace::new("two");
        assert_eq!(world.add(&two, "app-a").address.to_string(), "10.255.55.3");
    });
}

#[test]
fn a_cell_that_moved_under_its_containers_does_not_start() {
    in_cell(|world| {
        let one = Namespace::new("one");
        {
            let (_fake, _agent) = (world.dataplane(), world.agent());
            world.add(&one, "app-a");
        }
        std::fs::write(world.network(), NETWORK.replace("10.255.55.0", "10.255.56.0")).unwrap();
        match Agent::new(world.options()) {
            Err(error @ StartError::Subnet { .. }) => {
                let text = error.to_string();
                assert!(text.contains("10.255.55.2, which is not in the cell's subnet 10.255.56"));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_full_disk_refuses_an_add_and_nothing_else() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    in_cell(|world| {
        // This thread's mounts are its own from here on, and those of the agent's threads.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let var = world.root.directory().join("var");
        std::fs::create_dir(&var).unwrap();
        mount(Some("none"), &var, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();

        let (fake, _agent) = (world.dataplane(), world.agent());
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        world.add(&one, "app-a");
        let ballast = var.join("ballast");
        std::fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
        match world.client().add(two.wish("app-a"), two.netns.as_fd()) {
            Err(sarcenet_agent_api::AgentError::Refused { code: ErrorCode::Storage, message }) => {
                assert!(message.contains("nothing was changed (make room"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!two.has_eth0());
        assert_eq!(fake.told.lock().containers.len(), 1);
        assert_eq!(world.client().containers().unwrap().len(), 1);
        std::fs::remove_file(&ballast).unwrap();
        world.add(&two, "app-a");
    });
}
