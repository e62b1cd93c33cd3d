//! What a runtime asks for beside the interface itself, and which network it belongs to.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use ipnet::Ipv4Net;
use sarcenet_agent_api::{
    AgentError, Attach, AttachKind, Attachment, Bandwidth, CellTerms, ErrorCode, Expected,
    Extension, HostService, Protocol, Rate, Terms, Wishes,
};
use sarcenet_dataplane_api::{Attach as Described, PortId};

use crate::world::{NETWORK, Namespace, World, in_cell, refused, with_address};

const MAC: [u8; 6] = [0x0e, 1, 2, 3, 4, 5];

fn add(
    world: &World,
    container: &Namespace,
    kind: AttachKind,
    wishes: Wishes,
) -> Result<Attachment, AgentError> {
    let wish = Attach { kind, wishes, ..container.wish("app-a") };
    world.client().add(wish, container.netns.as_fd())
}

fn address(last: u8) -> Wishes {
    Wishes { address: Some(Ipv4Addr::new(10, 255, 55, last)), ..Wishes::default() }
}

#[test]
fn an_address_may_be_asked_for() {
    in_cell(|world| {
        let (_fake, agent) = (world.dataplane(), world.agent());
        let tun = AttachKind::Tun;
        let (one, two, three) =
            (Namespace::new("one"), Namespace::new("two"), Namespace::new("three"));
        let made = add(world, &one, tun, address(77)).unwrap();
        assert_eq!(made.address.to_string(), "10.255.55.77");
        assert_eq!(one.addresses(), [(made.address, 32)]);
        // Again, with the wish and without.
        assert_eq!(add(world, &one, tun, address(77)).unwrap(), made);
        assert_eq!(add(world, &one, tun, Wishes::default()).unwrap(), made);
        refused(add(world, &one, tun, address(78)), ErrorCode::Invalid, "DEL it first");
        let taken = "10.255.55.77 is that of one eth0 already";
        refused(add(world, &two, tun, address(77)), ErrorCode::NoAddress, taken);
        for last in [0, 1, 255] {
            let wrong = "which are those from 10.255.55.2 to 10.255.55.254";
            refused(add(world, &two, tun, address(last)), ErrorCode::Invalid, wrong);
        }
        let elsewhere = Wishes { address: Some([10, 255, 62, 9].into()), ..Wishes::default() };
        refused(add(world, &two, tun, elsewhere), ErrorCode::Invalid, "10.255.62.9 is not one");
        assert_eq!(two.devices(), ["lo"]);
        // Those who do not ask go round it, also when the agent is another.
        let next = add(world, &three, tun, address(78)).unwrap();
        drop(agent);
        let _agent = world.agent();
        let other = world.add(&two, "app-a");
        assert_eq!((next.address.octets()[3], other.address.octets()[3]), (78, 79));
        world.client().del(one.id()).unwrap();
        world.client().del(three.id()).unwrap();
        add(world, &three, tun, address(77)).unwrap();
    });
}

#[test]
fn a_mac_address_may_be_asked_for_where_there_is_one() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        let wishes = |mac| Wishes { mac: Some(mac), ..Wishes::default() };
        let words = "a TUN has no MAC address";
        refused(add(world, &one, AttachKind::Tun, wishes(MAC)), ErrorCode::Invalid, words);
        let veth = AttachKind::Veth;
        for wrong in [[0; 6], [0xff; 6], [1, 0, 0, 0, 0, 1]] {
            refused(add(world, &one, veth, wishes(wrong)), ErrorCode::Invalid, "single station");
        }
        let made = add(world, &one, veth, wishes(MAC)).unwrap();
        assert_eq!(made.mac, Some(MAC));
        let eth0 = one.ask(|netlink| netlink.link("eth0").unwrap().unwrap());
        assert_eq!(eth0.mac, Some(MAC));
        let gateway = [0xaa, 0xaa, 10, 255, 55, 2];
        let described = fake.told.lock().containers[&PortId(2)].0.attach;
        assert_eq!(described, Described::Veth { container: MAC, gateway });
        world.client().check(one.id(), Expected::default(), one.netns.as_fd()).unwrap();
        assert_eq!(add(world, &one, veth, wishes(MAC)).unwrap(), made);
        let other = Wishes::default();
        refused(add(world, &one, veth, other), ErrorCode::Invalid, "another address or MAC");
        assert_eq!(add(world, &two, veth, other).unwrap().mac, Some([0xee, 0xee, 10, 255, 55, 3]));
    });
}

/// The MTU that is asked for, and the one that comes of it on a cell of 1450.
#[test]
fn a_smaller_mtu_may_be_asked_for() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        for kind in [AttachKind::Tun, AttachKind::Veth] {
            let one = Namespace::new("one");
            for (asked, given) in
                [(Some(1360), 1360), (Some(576), 576), (Some(9000), 1450), (None, 1450)]
            {
                let wishes = Wishes { mtu: asked, ..Wishes::default() };
                assert_eq!(add(world, &one, kind, wishes).unwrap().mtu, given, "{asked:?}");
                let eth0 = one.ask(|netlink| netlink.link("eth0").unwrap().unwrap());
                assert_eq!(eth0.mtu, u32::from(given), "{asked:?}");
                world.client().check(one.id(), Expected::default(), one.netns.as_fd()).unwrap();
            }
            let wishes = Wishes { mtu: Some(575), ..Wishes::default() };
            refused(add(world, &one, kind, wishes), ErrorCode::Invalid, "less than 576");
            world.client().del(one.id()).unwrap();
        }
    });
}

#[test]
fn garbage_of_one_network_is_no_other_networks() {
    in_cell(|world| {
        let (_fake, agent) = (world.dataplane(), world.agent());
        let namespaces: Vec<_> = (0..5).map(|n| Namespace::new(&format!("c{n}"))).collect();
        let networks = ["a", "a", "b", "", "a"];
        for (one, network) in namespaces.iter().zip(networks) {
            let wish = Attach { network: network.into(), ..one.wish("app-a") };
            world.client().add(wish, one.netns.as_fd()).unwrap();
        }
        let left = || -> Vec<String> {
            let containers = world.client().containers().unwrap();
            containers.into_iter().map(|info| info.attachment.id.container).collect()
        };
        let collect = |network: &str, valid: &[usize]| {
            let valid = valid.iter().map(|&n| namespaces[n].id()).collect();
            world.client().gc(network.into(), valid)
        };
        refused(collect("", &[]), ErrorCode::Invalid, "has no name");
        collect("c", &[]).unwrap();
        assert_eq!(left(), ["c0", "c1", "c2", "c3", "c4"]);
        // The network is remembered.
        drop(agent);
        let _agent = world.agent();
        collect("a", &[1]).unwrap();
        assert_eq!(left(), ["c1", "c2", "c3"]);
        assert!(!namespaces[0].has_eth0() && namespaces[2].has_eth0());
        collect("a", &[]).unwrap();
        collect("b", &[2]).unwrap();
        assert_eq!(left(), ["c2", "c3"]);
        // A container that comes again by another network is that one's.
        let wish = Attach { network: "a".into(), ..namespaces[2].wish("app-a") };
        world.client().add(wish, namespaces[2].netns.as_fd()).unwrap();
        collect("b", &[]).unwrap();
        assert_eq!(left(), ["c2", "c3"]);
    });
}

#[test]
fn limits_may_come_later_and_are_checked() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let made = world.add(&one, "app-a");
        let rate = Some(Rate { bits_per_second: 1 << 20, burst_bits: 1 << 22 });
        let bandwidth = Some(Bandwidth { send: rate, receive: None });
        let check = |bandwidth| {
            let expected = Expected { bandwidth, ..with_address(made.address) };
            world.client().check(one.id(), expected, one.netns.as_fd())
        };
        refused(check(bandwidth), ErrorCode::Namespace, "other limits");
        let more = Extension { bandwidth, ..Extension::default() };
        world.client().extend(one.id(), more).unwrap();
        assert_eq!(fake.told.lock().settings[&PortId(2)].send, rate);
        check(bandwidth).unwrap();
        check(None).unwrap();
        // What else it gets leaves them as they are.
        world.client().extend(one.id(), Extension::default()).unwrap();
        check(bandwidth).unwrap();
    });
}

/// A plugin after ours may lead a container's packets elsewhere.
#[test]
fn a_default_route_that_is_another_plugins_is_not_checked() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        world.add(&one, "app-a");
        one.ask(|netlink| {
            let lo = netlink.link("lo").unwrap().unwrap();
            netlink.set_default_route(&lo, [127, 0, 0, 1].into()).unwrap();
        });
        let check = |default_route| {
            let expected = Expected { default_route, ..Expected::default() };
            world.client().check(one.id(), expected, one.netns.as_fd())
        };
        refused(check(true), ErrorCode::Namespace, "the default route does not lead through eth0");
        check(false).unwrap();
    });
}

#[test]
fn what_a_plugin_says_of_the_cell_holds_while_its_container_is_there() {
    in_cell(|world| {
        let file = "outside:\n  no_masquerade: [10.9.0.0/16]\n  dns_servers: [169.254.0.2]\n";
        std::fs::write(world.network(), format!("{NETWORK}{file}")).unwrap();
        let (fake, _agent) = (world.dataplane(), world.agent());
        let service = |address: [u8; 4], protocol, port| HostService {
            address: address.into(),
            protocol,
            port,
        };
        let configured = [Protocol::Tcp, Protocol::Udp].map(|p| service([169, 254, 0, 2], p, 53));
        let further = service([169, 254, 0, 3], Protocol::Tcp, 9090);
        let nets: [Ipv4Net; 2] = ["10.9.0.0/16", "10.8.0.0/16"].map(|net| net.parse().unwrap());
        let cell = CellTerms {
            services: vec![further, configured[0], further],
            not_masqueraded: vec![nets[1]],
        };
        let terms = Terms { cell, ..Terms::default() };
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        for container in [&one, &two] {
            let wish = Attach { terms: terms.clone(), ..container.wish("app-a") };
            world.client().add(wish, container.netns.as_fd()).unwrap();
        }
        let outside = || fake.told.lock().cell.clone().unwrap().outside.unwrap();
        let (all, both) = (vec![configured[0], configured[1], further], nets.to_vec());
        assert_eq!((outside().services, outside().not_masqueraded), (all.clone(), both));
        world.client().del(one.id()).unwrap();
        assert_eq!(outside().services, all);
        world.client().del(two.id()).unwrap();
        assert_eq!(outside().services, configured);
        assert_eq!(outside().not_masqueraded, nets[..1]);
        // What the dataplane could not have is refused before it hears of it.
        let with = |services| CellTerms { services, ..CellTerms::default() };
        let host_bits = vec!["10.8.0.1/16".parse().unwrap()];
        for (cell, words) in [
            (with(vec![further; 1025]), "more than 1024 services"),
            (with(vec![service([169, 254, 0, 2], Protocol::Tcp, 0)]), "169.254.0.2:0 cannot be"),
            (with(vec![service([0; 4], Protocol::Tcp, 53)]), "0.0.0.0:53 cannot be a service"),
            (with(vec![service([127, 0, 0, 1], Protocol::Udp, 53)]), "127.0.0.1:53 cannot be"),
            (with(vec![service([224, 0, 0, 1], Protocol::Udp, 53)]), "224.0.0.1:53 cannot be"),
            (
                CellTerms { not_masqueraded: host_bits, ..CellTerms::default() },
                "10.8.0.1/16 has host bits set; the network is 10.8.0.0/16",
            ),
        ] {
            let terms = Terms { cell, ..Terms::default() };
            let wish = Attach { terms, ..one.wish("app-a") };
            let answer = world.client().add(wish, one.netns.as_fd());
            refused(answer, ErrorCode::Invalid, words);
        }
    });
}
