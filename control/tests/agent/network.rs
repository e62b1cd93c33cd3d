//! Changes of the network file and of policies.

use sarcenet_agent_api::{AgentError, ErrorCode, Policy, RuleMeaning, parse_ports, parse_protocol};
use sarcenet_dataplane_api::PortId;

use crate::world::{NETWORK, Namespace, eventually, in_cell};

fn policy(from: &str, to: &str, ports: &str) -> Policy {
    Policy {
        from: from.into(),
        to: to.into(),
        protocol: parse_protocol("tcp").unwrap(),
        ports: parse_ports(ports).unwrap(),
    }
}

#[test]
fn allow_is_in_force_when_it_returns_and_revoke_takes_it_back() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let (a, b) = (Namespace::new("a"), Namespace::new("b"));
        let (_, b_address) = (world.add(&a, "app-a"), world.add(&b, "app-b").address);
        let mut client = world.client();
        let wanted = policy("app-a", "app-b", "7000-8000");
        let updates = fake.told.lock().updates.len();

        assert!(client.allow(wanted.clone()).unwrap());
        let id = {
            let told = fake.told.lock();
            let (key, id) = told.rules.first_key_value().unwrap();
            assert_eq!((key.source, key.destination), (1, b_address));
            assert_eq!((key.ports.first, key.ports.last), (7000, 8000));
            assert_eq!(told.updates.len(), updates + 1);
            assert_eq!(told.updates[updates].rules.len(), 1);
            assert!(told.updates[updates].containers.is_empty());
            *id
        };
        assert!(!client.allow(wanted.clone()).unwrap());
        let meaning = RuleMeaning::Policy(wanted.clone());
        assert_eq!(client.rules(&[id]).unwrap()[&id], meaning);
        assert_eq!(client.policies().unwrap(), std::slice::from_ref(&wanted));

        assert!(client.revoke(wanted.clone()).unwrap());
        assert!(fake.told.lock().rules.is_empty());
        assert!(!client.revoke(wanted.clone()).unwrap());
        // Drained flows still carry its name.
        assert_eq!(client.rules(&[id]).unwrap()[&id], meaning);
        assert_eq!(std::fs::read_to_string(world.network()).unwrap(), NETWORK);
    });
}

#[test]
fn a_policy_of_an_unknown_app_is_refused_with_the_cure() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        match world.client().allow(policy("app-a", "app-c", "80")) {
            Err(AgentError::Refused { code: ErrorCode::Config, message }) => {
                assert!(message.contains("no app is named `app-c`; did you mean"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(std::fs::read_to_string(world.network()).unwrap(), NETWORK);
        assert!(world.client().status().unwrap().config.mistakes.is_empty());
    });
}

#[test]
fn a_changed_file_is_in_force_however_it_was_changed() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let b = Namespace::new("b");
        world.add(&b, "app-b");
        let with = |ports: &str| {
            let policy = format!("\n  - {{from: app-a, to: app-b, protocol: udp, ports: {ports}}}");
            NETWORK.replace(" []", &policy)
        };
        let in_force = |port| {
            let told = fake.told.lock();
            told.rules.len() == 1 && told.rules.keys().all(|key| key.ports.first == port)
        };
        // In place.
        std::fs::write(world.network(), with("53")).unwrap();
        eventually("written in place", || in_force(53));
        // By renaming, as editors do.
        let new = world.network().with_extension("new");
        std::fs::write(&new, with("54")).unwrap();
        std::fs::rename(&new, world.network()).unwrap();
        eventually("renamed over", || in_force(54));
        // Removed and made anew.
        std::fs::remove_file(world.network()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(in_force(54));
        std::fs::write(world.network(), with("55")).unwrap();
        eventually("made anew", || in_force(55));
        assert_eq!(fake.told.lock().snapshots, 1, "changes are deltas");
    });
}

#[test]
fn mistakes_leave_the_old_state_in_force_and_are_shown() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let generation = |world: &crate::world::World| world.client().status().unwrap().dataplane;
        eventually("connected", || generation(world).ready);
        let before = generation(world);
        let wrong = NETWORK.replace("tag: 2", "tag: 1").replace("apps:", "aps: []\napps:");
        std::fs::write(world.network(), wrong).unwrap();
        eventually("two mistakes", || world.client().status().unwrap().config.mistakes.len() == 2);
        let mistakes = world.client().status().unwrap().config.mistakes;
        let path = world.network();
        assert!(mistakes[0].starts_with(&format!("{}:6:1: ", path.display())), "{mistakes:?}");
        assert!(mistakes[1].contains("tag 1 already belongs to the app in line 8"), "{mistakes:?}");
        assert_eq!(generation(world), before);
        assert_eq!(fake.told.lock().peers.len(), 1);
        // Back to what is in force.
        std::fs::write(world.network(), NETWORK).unwrap();
        eventually("no mistakes", || world.client().status().unwrap().config.mistakes.is_empty());
    });
}

#[test]
fn another_address_for_metrics_waits_for_a_restart() {
    in_cell(|world| {
        let (_fake, _agent) = (world.dataplane(), world.agent());
        std::fs::write(world.network(), format!("{NETWORK}status: null\n")).unwrap();
        eventually("refused", || {
            let mistakes = world.client().status().unwrap().config.mistakes;
            mistakes.iter().any(|line| line.contains("`status` has changed"))
        });
    });
}

#[test]
fn the_subnet_cannot_change_under_containers() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        world.add(&one, "app-a");
        let moved = NETWORK.replace("10.255.55.0/24", "10.255.56.0/24");
        std::fs::write(world.network(), &moved).unwrap();
        eventually("refused", || {
            let mistakes = world.client().status().unwrap().config.mistakes;
            mistakes.iter().any(|line| line.contains("while containers are attached"))
        });
        assert!(fake.told.lock().containers.contains_key(&PortId(2)));
        world.client().del(one.id()).unwrap();
        std::fs::write(world.network(), moved + "# again\n").unwrap();
        eventually("moved", || {
            let told = fake.told.lock();
            told.cell.as_ref().is_some_and(|cell| cell.subnet.to_string() == "10.255.56.0/24")
        });
        assert_eq!(world.add(&one, "app-a").address.to_string(), "10.255.56.2");
    });
}

#[test]
fn a_new_mtu_reaches_the_containers() {
    in_cell(|world| {
        let (fake, _agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        world.add(&one, "app-a");
        std::fs::write(world.network(), NETWORK.replace("mtu: 1450", "mtu: 1400")).unwrap();
        eventually("the container's", || {
            one.ask(|netlink| netlink.link("eth0").unwrap().unwrap().mtu) == 1400
        });
        eventually("the cell's", || {
            fake.told.lock().cell.as_ref().is_some_and(|cell| cell.mtu == 1400)
        });
    });
}
