//! A lease is got, kept, and got back.

use nix::sys::signal::Signal;
use sarcenet_control::netlink::Netlink;
use serde_json::{Value, json};

use crate::world::{INFO, Namespace, UNDERLAY, ask, eventually, health, in_cell, metric};

#[test]
fn the_subnet_is_leased_and_told() {
    in_cell(|world| {
        let (_control, fake) = (world.servers.start(), world.dataplane());
        let _agent = world.agent();
        let subnet = world.subnet();
        assert_eq!(world.leases(), [(subnet.clone(), UNDERLAY.to_owned())]);
        eventually("the dataplane knows it", || fake.told.lock().snapshots > 0);
        let cell = fake.told.lock().cell.clone().unwrap();
        assert_eq!(
            (cell.subnet.to_string(), cell.underlay.to_string()),
            (subnet.clone(), UNDERLAY.into())
        );
        for request in ["GET /", "GET /ping", "DELETE /any/thing?x"] {
            let (status, info) = ask(INFO, request);
            let info: Value = serde_json::from_str(&info).unwrap();
            assert_eq!((status, info), (200, json!({"overlay_subnet": subnet, "mtu": 1450})));
        }
        eventually("healthy", || health() == (200, String::new()));
        drop(fake.die());
        eventually("not healthy without a dataplane", || health().0 == 503);
        let failures = "sarcenet_agent_lease_renewals_total{result=\"failure\"}";
        assert_eq!(metric(failures), 0);
        assert!(metric("sarcenet_agent_last_renewal_timestamp_seconds") > 0);
        assert!(metric("sarcenet_agent_start_timestamp_seconds") > 0);
    });
}

#[test]
fn other_cells_come_and_go() {
    in_cell(|world| {
        let (_control, fake) = (world.servers.start(), world.dataplane());
        let _agent = world.agent();
        let own = world.subnet();
        let free = |last| format!("10.255.{last}.0/24");
        let other = [free(62), free(63)].into_iter().find(|subnet| *subnet != own).unwrap();
        world.take(&other, "10.77.0.12");
        // An address of the first block, for a router; and what packets cannot be sent to.
        world.take("10.255.0.9/32", "10.77.0.13");
        let single = "10.255.0.9/32".to_owned();
        let peers = || fake.told.lock().peers.keys().cloned().collect::<Vec<_>>();
        eventually("both are there", || peers() == [single.clone(), other.clone()]);
        eventually("counted", || metric("sarcenet_agent_cells") == 2);
        // The network file says whom to ask.
        let listed = world.command(&["leases"]).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["SUBNET", "UNDERLAY", "MAC"]);
        assert_eq!(lines[1], ["10.255.0.9/32", "10.77.0.13", "ee:ee:0a:ff:00:09"]);
        assert_eq!(lines.len(), 4, "{text}");
        let release = r#"{"underlay_ip":"10.77.0.12"}"#;
        assert_eq!(world.put("release", release).0, 200);
        eventually("one is gone", || peers() == [single.clone()]);
        eventually("counted", || metric("sarcenet_agent_cells") == 1);
        assert_eq!(world.subnet(), own);
    });
}

#[test]
fn an_agent_starts_with_every_server_down() {
    in_cell(|world| {
        let (control, fake) = (world.servers.start(), world.dataplane());
        let agent = world.agent();
        let subnet = world.subnet();
        world.take("10.255.0.9/32", "10.77.0.13");
        eventually("the other cell is there", || fake.told.lock().peers.len() == 1);
        let container = Namespace::new("one");
        let address = world.add(&container).address;
        // The other cell is on the disk too when the agent has been through a whole round.
        let lease_file = || std::fs::read_to_string(world.root.lease_file()).unwrap();
        eventually("written", || lease_file().contains("10.77.0.13"));
        assert_eq!(control.end(Signal::SIGKILL), None);
        assert_eq!(agent.end(Signal::SIGKILL), None);

        let mut agent = world.spawn();
        agent.logged("starting with the lease from before");
        eventually("told again", || fake.told.lock().snapshots == 2);
        {
            let told = fake.told.lock();
            assert_eq!(told.cell.as_ref().unwrap().subnet.to_string(), subnet);
            assert_eq!(told.peers.keys().collect::<Vec<_>>(), ["10.255.0.9/32"]);
            let containers: Vec<_> = told.containers.values().map(|one| one.0.address).collect();
            assert_eq!(containers, [address]);
        }
        let failures = "sarcenet_agent_lease_renewals_total{result=\"failure\"}";
        eventually("counted", || metric(failures) > 1);
        let problems = || world.client().status().unwrap().problems;
        eventually("shown", || problems().iter().any(|text| text.contains("lease is not renewed")));
        let control = world.servers.start();
        agent.logged("the lease is renewed again");
        eventually("not shown any more", || {
            !problems().iter().any(|text| text.contains("lease is not renewed"))
        });
        assert_eq!(world.subnet(), subnet);
        drop(control);
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
    });
}

#[test]
fn who_has_no_lease_waits_for_one() {
    in_cell(|world| {
        let mut agent = world.spawn();
        let told = agent.logged("waiting for a lease").to_string();
        assert!(told.contains("acquire subnet lease: ") && told.contains("no answer"), "{told}");
        eventually("not healthy", || health().1.contains("the cell has no lease yet"));
        let _control = world.servers.start();
        agent.logged("lease acquired");
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
        // And who waits can be ended.
        let mut waiting = world.spawn();
        waiting.logged("lease renewed");
        assert_eq!(waiting.end(Signal::SIGTERM), Some(0));
    });
}

#[test]
fn a_wiped_database_is_filled_again() {
    in_cell(|world| {
        let control = world.servers.start();
        let _agent = world.agent();
        let before = world.leases();
        control.end(Signal::SIGTERM);
        world.wipe();
        let _control = world.servers.start();
        eventually("there again", || world.leases() == before);
    });
}

#[test]
fn a_subnet_that_another_cell_has_is_fatal() {
    in_cell(|world| {
        let (_control, fake) = (world.servers.start(), world.dataplane());
        let agent = world.agent();
        let subnet = world.subnet();
        let container = Namespace::new("one");
        world.add(&container);
        agent.signal(Signal::SIGSTOP);
        let release = format!(r#"{{"underlay_ip":"{UNDERLAY}"}}"#);
        assert_eq!(world.put("release", &release).0, 200);
        world.take(&subnet, "10.77.0.12");
        agent.signal(Signal::SIGCONT);
        let (status, last) = agent.ended();
        assert_eq!(status, Some(1));
        let begin = "sarcenet: This cell must be restarted (run \"bosh restart <job>\"): fatal: \
                     renew lease: cannot renew the lease: renew-subnet-lease: another cell has";
        assert!(last.starts_with(begin), "{last}");
        assert_eq!(fake.told.lock().containers.len(), 1, "the dataplane goes on");

        let (status, last) = world.spawn().ended();
        assert_eq!(status, Some(1));
        assert!(last.contains("renew subnet lease with containers: 1: "), "{last}");
    });
}

#[test]
fn without_containers_a_lost_subnet_is_replaced() {
    in_cell(|world| {
        let _control = world.servers.start();
        let agent = world.agent();
        let subnet = world.subnet();
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let release = format!(r#"{{"underlay_ip":"{UNDERLAY}"}}"#);
        assert_eq!(world.put("release", &release).0, 200);
        world.take(&subnet, "10.77.0.12");
        let mut agent = world.spawn();
        agent.logged("the lease from before is lost");
        let new = agent.logged("lease acquired")["subnet"].as_str().unwrap().to_owned();
        assert_ne!(new, subnet);
        let base = new.split_once('/').unwrap().0.parse().unwrap();
        let netlink = Netlink::open().unwrap();
        eventually("the device has it", || {
            let link = netlink.link("sarcenet0").unwrap().unwrap();
            netlink.addresses(&link).unwrap() == [(base, 16)]
        });
        assert_eq!(agent.end(Signal::SIGTERM), Some(0));
    });
}

#[test]
fn an_overlay_that_the_cell_uses_is_refused() {
    in_cell(|world| {
        std::fs::write(world.root.resolver_file(), "nameserver 10.255.0.2\n").unwrap();
        let (status, last) = world.spawn().ended();
        assert_eq!(status, Some(1));
        let begin = "sarcenet: the overlay 10.255.0.0/16 overlaps the resolver 10.255.0.2";
        assert!(last.starts_with(begin), "{last}");
    });
}

#[test]
fn a_router_has_a_single_address() {
    in_cell(|world| {
        world.edit("timeout: 1", "timeout: 1, single_ip: true");
        let (_control, fake) = (world.servers.start(), world.dataplane());
        let agent = world.agent();
        let subnet = world.subnet();
        assert!(subnet.starts_with("10.255.0.") && subnet.ends_with("/32"), "{subnet}");
        eventually("the dataplane knows it", || fake.told.lock().snapshots > 0);
        let status = world.client().status().unwrap();
        assert_eq!(status.addresses_free, 0, "there is no room for containers");
        // The device alone shows it too.
        assert_eq!(agent.end(Signal::SIGKILL), None);
        std::fs::remove_file(world.root.lease_file()).unwrap();
        let mut agent = world.spawn();
        assert_eq!(agent.logged("lease renewed")["subnet"], subnet);
    });
}

#[test]
fn another_overlay_needs_another_lease() {
    in_cell(|world| {
        let _control = world.servers.start();
        let agent = world.agent();
        let container = Namespace::new("one");
        {
            let _fake = world.dataplane();
            eventually("ready", || world.client().status().unwrap().dataplane.ready);
            world.add(&container);
        }
        world.edit("overlay: 10.255.0.0/16", "overlay: 10.254.0.0/16");
        let mistakes = || world.client().status().unwrap().config.mistakes;
        eventually("not while it runs", || {
            mistakes()
                .iter()
                .any(|text| text.contains("is not a part of the overlay 10.254.0.0/16"))
        });
        assert_eq!(agent.end(Signal::SIGKILL), None);

        let (status, last) = world.spawn().ended();
        assert_eq!(status, Some(1));
        let said =
            "discovered lease is not in overlay network and has containers: 1 (lease 10.255.";
        assert!(last.contains(said), "{last}");
        // Without containers it asks for a new one, which is none of this overlay either.
        std::fs::remove_file(world.root.state_file()).unwrap();
        std::fs::remove_file(world.root.state_copy()).unwrap();
        let told = world.spawn().logged("waiting for a lease").to_string();
        assert!(told.contains("have both the same overlay?"), "{told}");
    });
}

#[test]
fn a_changed_control_section_waits_for_a_restart() {
    in_cell(|world| {
        let _control = world.servers.start();
        let mut agent = world.agent();
        world.edit("timeout: 1", "timeout: 2");
        agent.logged("the network file is not used");
        let mistakes = world.client().status().unwrap().config.mistakes;
        assert!(mistakes[0].contains("`control` has changed"), "{mistakes:?}");
        // What is wrong with the file stays shown, whatever servers say meanwhile.
        world.take("10.255.0.9/32", "10.77.0.13");
        eventually("the other cell is there", || world.client().status().unwrap().cells == 2);
        assert_eq!(world.client().status().unwrap().config.mistakes, mistakes);
        // And policies are not written into the file.
        let words = ["--from", "a", "--to", "b", "--protocol", "tcp", "--ports", "80"];
        let refused = world.command(&["policy", "allow"]).args(words).output().unwrap();
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains("come from the policy server (https://127.0.0.1:4003)"), "{text}");
    });
}
