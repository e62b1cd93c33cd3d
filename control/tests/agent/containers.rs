//! ADD, DEL and CHECK.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use sarcenet_agent_api::{AgentError, Attach, AttachmentId, ErrorCode, Expected};
use sarcenet_control::attach;
use sarcenet_control::netlink::LinkSettings;
use sarcenet_dataplane_api::PortId;

use crate::world::{NETWORK, Namespace, eventually, in_cell, with_address};

fn code<T: std::fmt::Debug>(result: Result<T, AgentError>) -> (ErrorCode, String) {
    match result {
        Err(AgentError::Refused { code, message }) => (code, message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_interface_is_made_as_it_should_be() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let attachment = world.add(&one, "app-a");
        assert_eq!(attachment.address.to_string(), "10.255.55.2");
        assert_eq!((attachment.mtu, attachment.port, attachment.mac), (1450, PortId(2), None));
        assert_eq!(attachment.routes[0].to_string(), "0.0.0.0/0");
        one.ask(|netlink| {
            let (eth0, lo) = (netlink.link("eth0").unwrap(), netlink.link("lo").unwrap());
            let eth0 = eth0.unwrap();
            assert!(eth0.up && lo.unwrap().up);
            assert_eq!(eth0.mtu, 1450);
            assert_eq!(netlink.addresses(&eth0).unwrap(), [(attachment.address, 32)]);
            assert!(netlink.has_default_route(&eth0, attachment.address).unwrap());
            let ipv6 = std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/disable_ipv6");
            assert!(ipv6.is_err() || ipv6.unwrap().trim() == "1");
        });
        let told = fake.told.lock();
        let (container, _queue) = &told.containers[&PortId(2)];
        assert_eq!((container.tag, container.name.as_str()), (1, "one"));
        assert!(told.host.is_some());
    });
}

#[test]
fn add_check_and_del_may_be_repeated() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let first = world.add(&one, "app-a");
        assert_eq!(world.add(&one, "app-a"), first);
        let mut client = world.client();
        client.check(one.id(), with_address(first.address), one.netns.as_fd()).unwrap();
        let wrong =
            client.check(one.id(), with_address([10, 255, 55, 9].into()), one.netns.as_fd());
        assert_eq!(code(wrong).0, ErrorCode::Namespace);
        client.del(one.id()).unwrap();
        assert!(!one.has_eth0());
        assert!(fake.told.lock().containers.is_empty());
        client.del(one.id()).unwrap();
        let gone = code(client.check(one.id(), Expected::default(), one.netns.as_fd()));
        assert_eq!(gone, (ErrorCode::Unknown, "one eth0 is not attached".into()));
        // The address rests.
        assert_eq!(world.add(&one, "app-a").address.to_string(), "10.255.55.3");
    });
}

#[test]
fn a_damaged_interface_fails_the_check_and_is_repaired_by_add() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let made = world.add(&one, "app-a");
        let mut client = world.client();
        one.ask(|netlink| {
            let eth0 = netlink.link("eth0").unwrap().unwrap();
            netlink.set_address(&eth0, [192, 0, 2, 1].into(), 32, false).unwrap();
        });
        let (_, message) = code(client.check(one.id(), Expected::default(), one.netns.as_fd()));
        assert!(message.contains("instead of 10.255.55.2/32"), "{message}");
        assert_eq!(world.add(&one, "app-a"), made);
        assert_eq!(one.addresses(), [(made.address, 32)]);

        one.ask(|netlink| netlink.remove(&netlink.link("eth0").unwrap().unwrap()).unwrap());
        let (_, message) = code(client.check(one.id(), Expected::default(), one.netns.as_fd()));
        assert!(message.contains("eth0 is not there"), "{message}");
        assert_eq!(world.add(&one, "app-a"), made);
        client.check(one.id(), with_address(made.address), one.netns.as_fd()).unwrap();
    });
}

#[test]
fn del_works_when_the_namespace_has_vanished() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let id = one.id();
        world.add(&one, "app-a");
        drop(one);
        world.client().del(id).unwrap();
        assert!(fake.told.lock().containers.is_empty());
        assert!(world.client().containers().unwrap().is_empty());
    });
}

#[test]
fn a_namespace_that_ends_takes_its_interface_along() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let id = one.id();
        world.add(&one, "app-a");
        let queue = fake.told.lock().containers[&PortId(2)].1.try_clone().unwrap();
        drop(one);
        // The dataplane's queue and the agent's keep nothing of it alive.
        eventually("gone", || attach::is_gone(&queue));
        let mut client = world.client();
        let problems = client.status().unwrap().problems;
        assert!(problems[0].contains("one eth0 has no interface: it is gone"), "{problems:?}");
        assert!(!client.containers().unwrap()[0].connected);
        client.del(id).unwrap();
        assert!(fake.told.lock().containers.is_empty());
        assert_eq!(client.status().unwrap().addresses_free, 253);
        assert_eq!(client.status().unwrap().problems, Vec::<String>::new());
    });
}

#[test]
fn a_foreign_device_of_that_name_is_left_alone() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let foreign = one.foreign_eth0();
        let mut client = world.client();
        let refused = code(client.add(one.wish("app-a"), one.netns.as_fd()));
        assert_eq!(refused.0, ErrorCode::Namespace);
        assert!(refused.1.contains("has a device eth0 already"), "{}", refused.1);
        assert!(one.has_eth0() && !attach::is_gone(&foreign));
        assert_eq!(one.devices(), ["eth0", "lo"]);
        assert!(client.containers().unwrap().is_empty());
        drop(foreign);
        let made = world.add(&one, "app-a");

        // In place of ours, and even with its address.
        one.ask(|netlink| netlink.remove(&netlink.link("eth0").unwrap().unwrap()).unwrap());
        let foreign = one.foreign_eth0();
        one.ask(|netlink| {
            let eth0 = netlink.link("eth0").unwrap().unwrap();
            netlink.bring_up(&eth0, LinkSettings { mtu: 1450, gso_max_size: None }).unwrap();
            netlink.set_address(&eth0, made.address, 32, false).unwrap();
            netlink.set_default_route(&eth0, made.address).unwrap();
        });
        let (_, message) = code(client.check(one.id(), Expected::default(), one.netns.as_fd()));
        assert!(message.contains("not the device that was made"), "{message}");
        let refused = code(client.add(one.wish("app-a"), one.netns.as_fd()));
        assert!(refused.1.contains("has a device eth0 already"), "{}", refused.1);
        drop(foreign);
        assert_eq!(world.add(&one, "app-a"), made);
    });
}

#[test]
fn a_renamed_interface_is_replaced() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let made = world.add(&one, "app-a");
        let netns = one.netns.as_fd();
        one.ask(|netlink| {
            let eth0 = netlink.link("eth0").unwrap().unwrap();
            netlink.give_away(&eth0, netns, "other").unwrap();
        });
        assert_eq!(one.devices(), ["lo", "other"]);
        assert_eq!(world.add(&one, "app-a"), made);
        eventually("the old one goes", || one.devices() == ["eth0", "lo"]);
        world.client().check(one.id(), Expected::default(), netns).unwrap();
    });
}

#[test]
fn concurrent_adds_get_different_addresses() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let namespaces: Vec<_> = (0..8).map(|n| Namespace::new(&format!("c{n}"))).collect();
        let addresses: BTreeSet<_> = std::thread::scope(|scope| {
            let adds: Vec<_> = namespaces
                .iter()
                .map(|one| scope.spawn(move || world.add(one, "app-a").address))
                .collect();
            adds.into_iter().map(|add| add.join().unwrap()).collect()
        });
        assert_eq!(addresses.len(), 8);
        assert_eq!(fake.told.lock().containers.len(), 8);
        let listed = world.client().containers().unwrap();
        assert!(listed.iter().all(|info| info.connected && info.tag == 1));
    });
}

#[test]
fn containers_come_in_pages() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let namespaces: Vec<_> = (0..20).map(|n| Namespace::new(&format!("c{n}"))).collect();
        for one in &namespaces {
            world.add(one, "app-a");
        }
        let ports: Vec<_> = world
            .client()
            .containers()
            .unwrap()
            .iter()
            .map(|info| info.attachment.port.0)
            .collect();
        assert_eq!(ports, (2..22).collect::<Vec<_>>());
        // More are wanted than fit one message, and one of them is here.
        let mut wanted = vec![namespaces[3].id()];
        wanted.extend(
            (0..5_000)
                .map(|n| AttachmentId { container: format!("{n:0>128}"), ifname: "eth0".into() }),
        );
        wanted.push(AttachmentId { container: "x".repeat(100_000), ifname: "eth0".into() });
        world.client().gc("network".into(), wanted).unwrap();
        let left = world.client().containers().unwrap();
        let left: Vec<_> = left.iter().map(|info| info.attachment.port.0).collect();
        assert_eq!(left, [5]);
        world.client().gc("network".into(), Vec::new()).unwrap();
        assert!(world.client().containers().unwrap().is_empty());
    });
}

#[test]
fn a_full_subnet_is_said_and_a_del_makes_room() {
    in_cell(|world| {
        let small = NETWORK.replace("10.255.55.0/24", "10.255.55.0/30");
        std::fs::write(world.network(), small).unwrap();
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        world.add(&one, "app-a");
        let refused = code(world.client().add(two.wish("app-a"), two.netns.as_fd()));
        assert_eq!(refused.0, ErrorCode::NoAddress);
        assert!(
            refused.1.contains("all 1 addresses of the cell's subnet 10.255.55.0/30 are taken")
        );
        world.client().del(one.id()).unwrap();
        world.add(&two, "app-a");
    });
}

#[test]
fn what_fails_leaves_nothing_behind() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let mut client = world.client();

        // The dataplane refuses.
        fake.told.lock().refuse = Some("out of sorts".into());
        let refused = code(client.add(one.wish("app-a"), one.netns.as_fd()));
        assert_eq!(refused.0, ErrorCode::Dataplane);
        assert!(refused.1.contains("out of sorts"), "{}", refused.1);
        assert!(!one.has_eth0());
        assert!(client.containers().unwrap().is_empty());
        fake.told.lock().refuse = None;

        // The namespace is the cell's own.
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let refused = code(client.add(one.wish("app-a"), own.as_fd()));
        assert_eq!(refused.0, ErrorCode::Namespace);

        // It is no namespace at all.
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(code(client.add(one.wish("app-a"), file.as_fd())).0, ErrorCode::Namespace);

        // The name is taken by another kind of device.
        let mut wish = one.wish("app-a");
        wish.id.ifname = "lo".into();
        assert_eq!(code(client.add(wish, one.netns.as_fd())).0, ErrorCode::Namespace);

        // Or can be no device's.
        let mut wish = one.wish("app-a");
        wish.id.ifname = "eth%d".into();
        assert_eq!(code(client.add(wish, one.netns.as_fd())).0, ErrorCode::Namespace);
        assert_eq!(one.devices(), ["lo"]);

        // Names that cannot be.
        for bad in ["", "-x", "a/b", "ä", &"x".repeat(129)] {
            let mut wish = one.wish("app-a");
            wish.id.container = bad.into();
            assert_eq!(code(client.add(wish, one.netns.as_fd())).0, ErrorCode::Invalid, "{bad}");
        }
        assert!(client.containers().unwrap().is_empty());
        assert_eq!(client.status().unwrap().addresses_free, 253);
        assert!(fake.told.lock().containers.is_empty());
        world.add(&one, "app-a");
    });
}

#[test]
fn the_same_container_in_another_namespace_is_refused() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let (one, other) = (Namespace::new("one"), Namespace::new("one"));
        // A path that nobody can take up again, as others may the number of a descriptor.
        let wish = Attach { netns_path: "/run/netns/that-is-not".into(), ..one.wish("app-a") };
        world.client().add(wish, one.netns.as_fd()).unwrap();
        let refused = code(world.client().add(other.wish("app-a"), other.netns.as_fd()));
        assert_eq!(refused.0, ErrorCode::Invalid);
        assert!(refused.1.contains("another network namespace"), "{}", refused.1);
        assert!(!other.has_eth0());
        // But not when the one before has ended, as when a runtime was killed with its containers.
        drop(one);
        let mut added = None;
        eventually("an ADD in place of the one before", || {
            added = world.client().add(other.wish("app-a"), other.netns.as_fd()).ok();
            added.is_some()
        });
        assert_eq!(other.addresses(), [(added.unwrap().address, 32)]);
        assert_eq!(world.client().status().unwrap().addresses_free, 252);
    });
}

#[test]
fn without_a_dataplane_an_add_fails_and_is_undone() {
    in_cell(|world| {
        let _agent = world.agent();
        let one = Namespace::new("one");
        let refused = code(world.client().add(one.wish("app-a"), one.netns.as_fd()));
        assert_eq!(refused.0, ErrorCode::Dataplane);
        assert!(refused.1.contains("is sarcenet-dataplane running?"), "{}", refused.1);
        assert!(!one.has_eth0());
        assert!(world.client().containers().unwrap().is_empty());
    });
}

#[test]
fn an_app_unknown_to_the_file_has_no_tag_until_it_is_named() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        world.add(&one, "app-x");
        assert_eq!(fake.told.lock().containers[&PortId(2)].0.tag, 0);
        let problems = world.client().status().unwrap().problems;
        assert!(problems[0].contains("app app-x, which the network file does not name"));
        let named = NETWORK.replace("policies:", "  - {id: app-x, tag: 7}\npolicies:");
        std::fs::write(world.network(), named).unwrap();
        eventually("the tag", || fake.told.lock().containers[&PortId(2)].0.tag == 7);
        assert_eq!(world.client().status().unwrap().problems, Vec::<String>::new());
    });
}
