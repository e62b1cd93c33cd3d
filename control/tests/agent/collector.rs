//! Containers that end without a DEL, and those that only look like it. Time is what the test says.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use sarcenet_agent_api::{
    Attach, AttachKind, ContainerInfo, Expected, PortMapping, Protocol, Terms,
};
use sarcenet_control::netlink::Netlink;
use sarcenet_dataplane_api::PortId;

use crate::world::{NETWORK, Namespace, RunningAgent, World, eventually, in_cell};

const GRACE: Duration = Duration::from_mins(1);
const ALMOST: Duration = Duration::from_secs(59);
const KINDS: [AttachKind; 2] = [AttachKind::Tun, AttachKind::Veth];

/// As `container` wants it, but with a path that leads nowhere: another test may take up that of a
/// namespace that has ended.
fn pathless(container: &Namespace, kind: AttachKind) -> Attach {
    let netns_path = format!("/run/netns/{}-is-not-there", container.name);
    Attach { netns_path, kind, ..container.wish("app-a") }
}

fn attach(world: &World, container: &Namespace, kind: AttachKind) {
    world.client().add(pathless(container, kind), container.netns.as_fd()).unwrap();
}

fn infos(world: &World) -> Vec<ContainerInfo> {
    world.client().containers().unwrap()
}

fn names(world: &World) -> Vec<String> {
    infos(world).into_iter().map(|info| info.attachment.id.container).collect()
}

/// Has the agent look, as if it were `now`, until it has seen that a container has ended.
fn seen(world: &World, agent: &RunningAgent, now: Instant, name: &str) {
    eventually("its end is seen", || {
        agent.agent.collect(now);
        infos(world).iter().any(|i| i.attachment.id.container == name && i.ended_s.is_some())
    });
}

#[test]
fn what_has_ended_is_removed_after_its_time_and_not_before() {
    in_cell(|world| {
        std::fs::write(world.network(), format!("{NETWORK}outside: {{}}\n")).unwrap();
        for kind in KINDS {
            let (fake, agent) = (world.dataplane(), world.agent());
            let (gone, stays) = (Namespace::new("gone"), Namespace::new("stays"));
            let mapping =
                PortMapping { protocol: Protocol::Tcp, host_port: 61_000, container_port: 80 };
            let terms = Terms { mappings: vec![mapping], ..Terms::default() };
            let wish = Attach { terms: terms.clone(), ..pathless(&gone, kind) };
            world.client().add(wish, gone.netns.as_fd()).unwrap();
            attach(world, &stays, kind);
            let free = world.client().status().unwrap().addresses_free;
            let info = &infos(world)[0];
            assert!(
                info.kind == kind && info.age_s.is_some() && info.ended_s.is_none(),
                "{info:?}"
            );
            drop(gone);

            let now = Instant::now();
            seen(world, &agent, now, "gone");
            agent.agent.collect(now + ALMOST);
            assert_eq!(names(world), ["gone", "stays"]);
            agent.agent.collect(now + GRACE);
            assert_eq!(names(world), ["stays"]);
            let status = world.client().status().unwrap();
            assert_eq!((status.collected, status.addresses_free), (1, free + 1));
            assert_eq!(status.problems, Vec::<String>::new());
            assert_eq!(fake.told.lock().containers.len(), 1);

            // Its port of the cell is free, and a late DEL finds nothing to do.
            let wish = Attach { terms, ..stays.wish("app-a") };
            let wish = Attach { netns_path: pathless(&stays, kind).netns_path, kind, ..wish };
            world.client().add(wish, stays.netns.as_fd()).unwrap();
            world.client().del(Namespace::new("gone").id()).unwrap();
            world.client().del(stays.id()).unwrap();
        }
    });
}

#[test]
fn a_name_that_comes_back_in_time_is_another_container() {
    in_cell(|world| {
        let (_fake, agent) = (world.dataplane(), world.agent());
        for kind in KINDS {
            let one = Namespace::new("one");
            attach(world, &one, kind);
            drop(one);
            let now = Instant::now();
            seen(world, &agent, now, "one");
            let again = Namespace::new("one");
            // Numbers of namespaces are given again, but the one that was lost has no interface.
            attach(world, &again, kind);
            agent.agent.collect(now + 2 * GRACE);
            assert_eq!(infos(world)[0].ended_s, None);
            world.client().check(again.id(), Expected::default(), again.netns.as_fd()).unwrap();

            // And one that comes late, too.
            drop(again);
            let now = now + 3 * GRACE;
            seen(world, &agent, now, "one");
            agent.agent.collect(now + GRACE);
            assert_eq!(names(world), Vec::<String>::new());
            let late = Namespace::new("one");
            attach(world, &late, kind);
            world.client().check(late.id(), Expected::default(), late.netns.as_fd()).unwrap();
            world.client().del(late.id()).unwrap();
        }
        assert_eq!(world.client().status().unwrap().collected, 2);
    });
}

#[test]
fn nothing_that_lives_is_removed() {
    in_cell(|world| {
        let (_fake, agent) = (world.dataplane(), world.agent());
        for kind in KINDS {
            // One whose path the agent does not see, as that of a process that has ended.
            let hidden = Namespace::new("hidden");
            attach(world, &hidden, kind);
            // One that has lost its interface.
            let lost = Namespace::new("lost");
            let wish = Attach { kind, ..lost.wish("app-a") };
            world.client().add(wish.clone(), lost.netns.as_fd()).unwrap();
            lost.ask(|netlink| netlink.remove(&netlink.link("eth0").unwrap().unwrap()).unwrap());
            eventually("it is lost", || infos(world).iter().any(|info| !info.connected));
            let now = Instant::now();
            for minutes in 0..5 {
                agent.agent.collect(now + minutes * GRACE);
            }
            assert_eq!(names(world), ["hidden", "lost"]);
            assert!(infos(world).iter().all(|info| info.ended_s.is_none()));
            world.client().add(wish, lost.netns.as_fd()).unwrap();
            world.client().check(lost.id(), Expected::default(), lost.netns.as_fd()).unwrap();
            for one in [hidden, lost] {
                world.client().del(one.id()).unwrap();
            }
        }
    });
}

/// As long as no dataplane was asked, it may hold what the agent does not.
#[test]
fn a_new_agent_asks_the_dataplane_first() {
    in_cell(|world| {
        for kind in KINDS {
            let (gone, stays) = (Namespace::new("gone"), Namespace::new("stays"));
            let told = {
                let (fake, _agent) = (world.dataplane(), world.agent());
                attach(world, &gone, kind);
                attach(world, &stays, kind);
                fake.die()
            };
            drop(gone);
            let agent = world.agent();
            let now = Instant::now();
            agent.agent.collect(now);
            agent.agent.collect(now + 2 * GRACE);
            assert_eq!(names(world), ["gone", "stays"]);

            let fake = world.dataplane_with(told);
            eventually("told", || world.client().status().unwrap().dataplane.ready);
            let now = now + 2 * GRACE;
            seen(world, &agent, now, "gone");
            agent.agent.collect(now + GRACE);
            assert_eq!(names(world), ["stays"]);
            // It was the dataplane's descriptor that said that it lives.
            assert!(infos(world)[0].connected);
            drop(agent);

            // When both have died nobody has its queue, and its path leads nowhere; the cell's end of
            // a veth shows that it lives all the same.
            drop(fake);
            let (_fake, agent) = (world.dataplane(), world.agent());
            eventually("told", || world.client().status().unwrap().dataplane.ready);
            let now = Instant::now();
            agent.agent.collect(now);
            agent.agent.collect(now + GRACE);
            let left = names(world);
            let lives = kind == AttachKind::Veth;
            assert_eq!(left, if lives { vec!["stays".to_owned()] } else { Vec::new() });
            world.client().del(stays.id()).unwrap();
        }
    });
}

#[test]
fn never_is_never_and_the_file_may_change_it() {
    in_cell(|world| {
        std::fs::write(world.network(), format!("{NETWORK}collect_after: 0\n")).unwrap();
        let (fake, agent) = (world.dataplane(), world.agent());
        let one = Namespace::new("one");
        attach(world, &one, AttachKind::Tun);
        drop(one);
        let now = Instant::now();
        seen(world, &agent, now, "one");
        agent.agent.collect(now + 1_000 * GRACE);
        assert_eq!(names(world), ["one"]);
        let problems = world.client().status().unwrap().problems;
        assert!(problems[0].contains("one eth0 has no interface: it is gone"), "{problems:?}");
        assert!(fake.told.lock().containers.contains_key(&PortId(2)));

        std::fs::write(world.network(), format!("{NETWORK}collect_after: 1\n")).unwrap();
        eventually("collected", || {
            agent.agent.collect(now + Duration::from_secs(1));
            names(world).is_empty()
        });
        assert!(Netlink::open().unwrap().link("eth0").unwrap().is_none());
    });
}
