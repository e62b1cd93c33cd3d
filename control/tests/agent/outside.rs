//! What containers may do outside, and what leads to them: from file and plugin to dataplane.

use std::os::fd::AsFd;

use sarcenet_agent_api::{
    AddressRange, AgentError, Attach, Attachment, ErrorCode, Extension, Mapping, Metadata,
    NetOutRule, PortMapping, PortRange, Protocol, RuleMeaning, Terms,
};
use sarcenet_control::netlink::Netlink;
use sarcenet_dataplane_api::{PortId, Settings};

use crate::fake::Fake;
use crate::world::{NETWORK, Namespace, World, eventually, in_cell, refused};

const OUTSIDE: &str = "\
outside:
  dns_servers: [169.254.0.2, 10.1.1.1]
  deny_networks: {always: [169.254.169.254/32]}
";

const GROUPS: &str = "\
security_groups:
  - name: public
    rules: [{protocol: tcp, destination: 0.0.0.0/0, ports: 443}]
    running_default: true
  - name: of-s
    rules: [{protocol: udp, destination: 10.0.0.1, ports: 53}]
    spaces: [s]
";

fn write(world: &World, more: &str) {
    std::fs::write(world.network(), format!("{NETWORK}{more}")).unwrap();
}

fn mapping(host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, host_port, container_port }
}

fn mapped(host_ports: std::ops::RangeInclusive<u16>) -> Terms {
    let mappings = host_ports.map(|port| mapping(port, port - 50_000)).collect();
    Terms { mappings, ..Terms::default() }
}

fn in_space(space: &str) -> Terms {
    let metadata = Metadata { space_id: Some(space.into()), ..Metadata::default() };
    Terms { metadata, ..Terms::default() }
}

fn add(world: &World, container: &Namespace, terms: Terms) -> Result<Attachment, AgentError> {
    let wish = Attach { terms, ..container.wish("app-a") };
    world.client().add(wish, container.netns.as_fd())
}

fn settings(fake: &Fake, port: u16) -> Settings {
    fake.told.lock().settings[&PortId(port)].clone()
}

/// What the rules of a set were made from.
fn meanings(world: &World, fake: &Fake, settings: &Settings) -> Vec<String> {
    let ids: Vec<_> =
        fake.told.lock().sets[&settings.allowed.unwrap()].iter().map(|rule| rule.id).collect();
    let names = world.client().rules(&ids).unwrap();
    ids.iter().map(|id| names[id].to_string()).collect()
}

#[test]
fn groups_follow_the_containers_space_and_the_file() {
    in_cell(|world| {
        write(world, &format!("{OUTSIDE}{GROUPS}"));
        let (fake, _agent) = (world.dataplane(), world.agent());
        let (one, two, three) =
            (Namespace::new("one"), Namespace::new("two"), Namespace::new("three"));
        let attachment = add(world, &one, in_space("s")).unwrap();
        let servers: Vec<_> = attachment.name_servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["169.254.0.2", "10.1.1.1"]);
        add(world, &two, in_space("t")).unwrap();
        add(world, &three, in_space("s")).unwrap();
        let of = |port| settings(&fake, port);
        assert_eq!(
            meanings(world, &fake, &of(2)),
            ["security group public rule 1", "security group of-s rule 1"]
        );
        assert_eq!(meanings(world, &fake, &of(3)), ["security group public rule 1"]);
        assert_eq!((of(2).allowed, of(2).denied), (of(4).allowed, of(3).denied));
        // Two lists of what is allowed, one of what is denied.
        assert_eq!(fake.told.lock().sets.len(), 3);
        let set = of(2).denied.unwrap();
        let denied = fake.told.lock().sets[&set][0];
        assert_eq!((denied.first, denied.last), ([169, 254, 169, 254].into(), denied.first));

        // Only what changes is sent: one set comes, one goes, two containers change.
        let updates = fake.told.lock().updates.len();
        write(world, &format!("{OUTSIDE}{}", GROUPS.replace("ports: 53", "ports: 54")));
        eventually("the new rule", || fake.told.lock().updates.len() > updates);
        let update = fake.told.lock().updates[updates].clone();
        assert_eq!((update.egress.len(), update.egress_gone.len()), (1, 1));
        assert_eq!((update.settings.len(), update.containers.len()), (2, 0));

        // A mistake changes nothing.
        write(world, &format!("{OUTSIDE}{}", GROUPS.replace("ports: 53", "ports: 70000")));
        eventually("the mistake", || {
            let mistakes = world.client().status().unwrap().config.mistakes;
            mistakes.iter().any(|line| line.contains("rule 1 of security group `of-s`: `70000`"))
        });
        assert_eq!(fake.told.lock().updates.len(), updates + 1);
    });
}

#[test]
fn without_groups_the_runtimes_rules_hold() {
    in_cell(|world| {
        write(world, OUTSIDE);
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        let rule = |protocol| NetOutRule {
            protocol,
            networks: vec![AddressRange { first: [8, 8, 0, 0].into(), last: [8, 8, 9, 9].into() }],
            ports: vec![PortRange { first: 53, last: 53 }],
            ..NetOutRule::default()
        };
        let terms = |net_out| Terms { net_out, ..Terms::default() };
        refused(
            add(world, &one, terms(vec![rule(1), rule(9)])),
            ErrorCode::Invalid,
            "rule 2 of netOutRules: protocol `9` is not known",
        );
        // A rule for everything cannot have ports and is left out, as by the kernel stack.
        add(world, &one, terms(vec![rule(0), rule(2)])).unwrap();
        assert_eq!(meanings(world, &fake, &settings(&fake, 2)), ["netOutRules rule 2"]);
        let set = settings(&fake, 2).allowed.unwrap();
        let id = fake.told.lock().sets[&set][0].id;
        let meaning = RuleMeaning::NetOut { number: 2 };
        assert_eq!(world.client().rules(&[id]).unwrap()[&id], meaning);
        // ADD again with other rules puts those in force.
        add(world, &one, terms(vec![rule(1), rule(2)])).unwrap();
        assert_eq!(meanings(world, &fake, &settings(&fake, 2)).len(), 2);
        // Security groups take over, even if there are none.
        write(world, &format!("{OUTSIDE}security_groups: []\n"));
        eventually("nothing is allowed", || settings(&fake, 2).allowed.is_none());
    });
}

#[test]
fn a_port_of_the_cell_leads_to_one_container() {
    in_cell(|world| {
        write(world, OUTSIDE);
        let (fake, _agent) = (world.dataplane(), world.agent());
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        add(world, &one, mapped(61_000..=61_009)).unwrap();
        let cell = PortRange { first: 61_000, last: 61_009 };
        let expected = [Mapping { protocol: Protocol::Tcp, cell, container: 11_000 }];
        assert_eq!(settings(&fake, 2).mappings, expected);
        assert_eq!(world.client().containers().unwrap()[0].mappings, expected);

        let invalid = |terms, words| refused(add(world, &two, terms), ErrorCode::Invalid, words);
        invalid(
            mapped(61_009..=61_010),
            "host port 61009/tcp is mapped to container one eth0 already",
        );
        let zero = Terms { mappings: vec![mapping(0, 80)], ..Terms::default() };
        invalid(zero, "cannot allocate port 0");
        let twice = vec![mapping(62_000, 80), mapping(62_000, 81)];
        invalid(Terms { mappings: twice, ..Terms::default() }, "62000/tcp is mapped twice");
        let snat = Terms { mappings: vec![mapping(20_000, 80)], ..Terms::default() };
        invalid(snat, "host port 20000/tcp lies in snat_ports 16384-32767");
        // Nothing of the refused ones is left.
        assert_eq!(world.client().containers().unwrap().len(), 1);
        add(world, &two, mapped(61_010..=61_010)).unwrap();

        // Ports that are in use cannot become those of source NAT.
        write(world, "outside: {snat_ports: 61000-65535}\n");
        eventually("refused", || {
            let mistakes = world.client().status().unwrap().config.mistakes;
            mistakes.iter().any(|line| line.contains("lies in snat_ports 61000-65535"))
        });
        let outside = fake.told.lock().cell.as_ref().unwrap().outside.clone().unwrap();
        assert_eq!(outside.snat_ports, Some(PortRange { first: 16_384, last: 32_767 }));
        // Freed ports may be had again.
        world.client().del(one.id()).unwrap();
        assert!(!fake.told.lock().settings.contains_key(&PortId(2)));
        add(world, &one, mapped(61_000..=61_000)).unwrap();
    });
}

#[test]
fn ports_that_the_kernel_gives_away_are_reserved() {
    const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    in_cell(|world| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32000 60999").unwrap();
        write(world, OUTSIDE);
        let (fake, _agent) = (world.dataplane(), world.agent());
        eventually("connected", || fake.told.lock().snapshots == 1);
        assert_eq!(std::fs::read_to_string(RESERVED).unwrap().trim(), "16384-32767");
        write(world, "outside: {snat_ports: 30000-40000}\n");
        eventually("reserved", || {
            std::fs::read_to_string(RESERVED).unwrap().trim() == "16384-40000"
        });
    });
}

#[test]
fn mapped_ports_need_a_way_out() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        refused(
            add(world, &one, mapped(61_000..=61_000)),
            ErrorCode::Config,
            "add `outside: {}` to the network file",
        );
    });
}

#[test]
fn terms_survive_a_restart_of_the_agent() {
    in_cell(|world| {
        write(world, &format!("{OUTSIDE}{GROUPS}"));
        let (fake, agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        add(world, &one, Terms { mappings: vec![mapping(61_000, 80)], ..in_space("s") }).unwrap();
        let before = settings(&fake, 2);
        drop(agent);
        let snapshots = fake.told.lock().snapshots;
        let _agent = world.agent();
        eventually("a snapshot", || fake.told.lock().snapshots > snapshots);
        assert_eq!(settings(&fake, 2), before);
    });
}

#[test]
fn new_addresses_of_the_cell_are_noticed() {
    in_cell(|world| {
        write(world, OUTSIDE);
        let (fake, _agent) = (world.dataplane(), world.agent());
        let local = || -> Vec<String> {
            let told = fake.told.lock();
            let outside = told.cell.as_ref().and_then(|cell| cell.outside.as_ref());
            outside.map_or_else(Vec::new, |o| o.local.iter().map(ToString::to_string).collect())
        };
        eventually("connected", || fake.told.lock().snapshots == 1);
        assert_eq!(local(), Vec::<String>::new(), "loopback, underlay and overlay are known");
        let netlink = Netlink::open().unwrap();
        let device = netlink.link(sarcenet_control::host::DEVICE).unwrap().unwrap();
        // Instead of its own; which device has it does not matter.
        netlink.set_address(&device, [192, 0, 2, 7].into(), 32, false).unwrap();
        eventually("the new address", || local() == ["192.0.2.7"]);
        netlink.remove_addresses(&device).unwrap();
        eventually("no address", || local().is_empty());
    });
}

/// What Garden asks for beside what a container came with.
#[test]
fn an_attached_container_may_have_more() {
    in_cell(|world| {
        write(world, OUTSIDE);
        let (fake, agent) = (world.dataplane(), world.agent());
        let (one, two) = (Namespace::new("one"), Namespace::new("two"));
        let extend = |container: &Namespace, mappings: &[PortMapping], net_out: &[NetOutRule]| {
            let (mappings, net_out) = (mappings.to_vec(), net_out.to_vec());
            let more = Extension { mappings, net_out, bandwidth: None };
            world.client().extend(container.id(), more)
        };
        refused(extend(&one, &[mapping(61_000, 80)], &[]), ErrorCode::Unknown, "not attached");

        add(world, &one, mapped(61_000..=61_001)).unwrap();
        add(world, &two, mapped(61_010..=61_010)).unwrap();
        let rule = |last: u8| NetOutRule {
            networks: vec![AddressRange {
                first: [8, 8, 8, 8].into(),
                last: [8, 8, 8, last].into(),
            }],
            ..NetOutRule::default()
        };
        // In force when it is answered, and no more than once.
        for _ in 0..2 {
            extend(&one, &[mapping(61_001, 11_001), mapping(61_002, 11_002)], &[]).unwrap();
            extend(&one, &[], &[rule(8), rule(9)]).unwrap();
            let expected = Mapping {
                protocol: Protocol::Tcp,
                cell: PortRange { first: 61_000, last: 61_002 },
                container: 11_000,
            };
            assert_eq!(settings(&fake, 2).mappings, [expected]);
            let expected = ["netOutRules rule 1", "netOutRules rule 2"];
            assert_eq!(meanings(world, &fake, &settings(&fake, 2)), expected);
        }
        assert_eq!(settings(&fake, 3).allowed, None);

        // What cannot be had changes nothing.
        let before = settings(&fake, 2);
        for (host_port, words) in [
            (61_010, "host port 61010/tcp is mapped to container two eth0 already"),
            (61_000, "host port 61000/tcp is mapped twice"),
            (20_000, "host port 20000/tcp lies in snat_ports"),
            (0, "cannot allocate port 0"),
        ] {
            let wrong = [mapping(61_003, 11_003), mapping(host_port, 1)];
            refused(extend(&one, &wrong, &[]), ErrorCode::Invalid, words);
        }
        let unknown = NetOutRule { protocol: 9, ..rule(8) };
        refused(extend(&one, &[], &[unknown]), ErrorCode::Invalid, "protocol `9` is not known");
        assert_eq!(settings(&fake, 2), before);

        // It is on the disk, and lasts until the container is attached anew.
        drop(agent);
        let snapshots = fake.told.lock().snapshots;
        let _agent = world.agent();
        eventually("a snapshot", || fake.told.lock().snapshots > snapshots);
        assert_eq!(settings(&fake, 2), before);
        add(world, &one, mapped(61_000..=61_001)).unwrap();
        assert_eq!(settings(&fake, 2).mappings[0].cell.last, 61_001);
        assert_eq!(settings(&fake, 2).allowed, None);
    });
}
