//! Containers with a veth: ADD, DEL and CHECK.

use std::os::fd::AsFd;

use sarcenet_agent_api::{AgentError, Attach, AttachKind, ErrorCode, Expected};
use sarcenet_control::netlink::Netlink;
use sarcenet_dataplane_api::{Attach as Described, PortId};

use crate::world::{Namespace, in_cell, with_address};

const HOST_END: &str = "s-010255055002";

fn wish(container: &Namespace) -> Attach {
    Attach { kind: AttachKind::Veth, ..container.wish("app-a") }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, AgentError>) -> String {
    match result {
        Err(AgentError::Refused { code: ErrorCode::Namespace | ErrorCode::Invalid, message }) => {
            message
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_dataplane_is_told_both_ends_and_the_runtime_too() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let made = world.client().add(wish(&one), one.netns.as_fd()).unwrap();
        let (container, gateway) = ([0xee, 0xee, 10, 255, 55, 2], [0xaa, 0xaa, 10, 255, 55, 2]);
        let host = made.host.unwrap();
        assert_eq!((made.mac, host.mac), (Some(container), gateway));
        assert_eq!(
            (host.name.as_str(), host.gateway.to_string().as_str()),
            (HOST_END, "169.254.0.1")
        );
        let told = fake.told.lock();
        let (described, socket) = &told.containers[&PortId(2)];
        assert_eq!(described.attach, Described::Veth { container, gateway });
        let link = Netlink::open().unwrap().link(HOST_END).unwrap().unwrap();
        assert_eq!(sarcenet_packet_socket::device(socket.as_fd()).unwrap(), Some(link.index));
    });
}

#[test]
fn whatever_is_damaged_fails_the_check_and_is_repaired_by_add() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let mut client = world.client();
        let made = client.add(wish(&one), one.netns.as_fd()).unwrap();
        client.check(one.id(), with_address(made.address), one.netns.as_fd()).unwrap();
        let netlink = Netlink::open().unwrap();
        let host = || netlink.link(HOST_END).unwrap().unwrap();
        let eth0 = |netlink: &Netlink| netlink.link("eth0").unwrap().unwrap();
        let damages: [(&str, &dyn Fn()); 5] = [
            ("has addresses", &|| {
                netlink.set_address(&host(), [192, 0, 2, 1].into(), 32, false).unwrap();
            }),
            ("its filter is gone", &|| {
                let tc = ["qdisc", "del", "dev", HOST_END, "ingress"];
                assert!(std::process::Command::new("tc").args(tc).status().unwrap().success());
            }),
            ("instead of 10.255.55.2/32", &|| {
                one.ask(|netlink| {
                    netlink.set_address(&eth0(netlink), [192, 0, 2, 1].into(), 32, false).unwrap();
                });
            }),
            ("MAC address of eth0 was changed", &|| {
                one.ask(|netlink| {
                    netlink.set_mac_without_arp(&eth0(netlink), [2, 0, 0, 0, 0, 1]).unwrap();
                });
            }),
            ("is not there", &|| one.ask(|netlink| netlink.remove(&eth0(netlink)).unwrap())),
        ];
        for (complaint, damage) in damages {
            damage();
            let message = refusal(client.check(one.id(), Expected::default(), one.netns.as_fd()));
            assert!(message.contains(complaint), "{complaint}: {message}");
            assert_eq!(client.add(wish(&one), one.netns.as_fd()).unwrap(), made, "{complaint}");
            client.check(one.id(), with_address(made.address), one.netns.as_fd()).unwrap();
        }
        let other = refusal(client.add(one.wish("app-a"), one.netns.as_fd()));
        assert!(other.contains("attached by veth, not tun"), "{other}");
        client.del(one.id()).unwrap();
        client.del(one.id()).unwrap();
        assert!(netlink.link(HOST_END).unwrap().is_none() && !one.has_eth0());
    });
}

#[test]
fn devices_of_others_are_left_alone() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let foreign = one.foreign_eth0();
        let message = refusal(world.client().add(wish(&one), one.netns.as_fd()));
        assert!(message.contains("has a device eth0 already"), "{message}");
        assert!(one.has_eth0());
        assert!(Netlink::open().unwrap().link(HOST_END).unwrap().is_none());
        drop(foreign);
    });
}
