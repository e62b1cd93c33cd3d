//! Servers, certificates and disks that fail: nothing that is in force is lost, and each failure
//! shows.

use std::fs;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use sarcenet_control::host;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{IdentityFiles, ServerFiles, ServerTls};
use sarcenet_server::http::{Limits, Serve, Server, Stopper, stop};
use tokio::runtime::{Builder, Runtime};

use crate::world::{Namespace, World, eventually, in_cell, metric};

const FAILURES: &str = "sarcenet_agent_lease_renewals_total{result=\"failure\"}";
const SUCCESSES: &str = "sarcenet_agent_lease_renewals_total{result=\"success\"}";
const UNCONVERGED: &str = "sarcenet_agent_converges_total{result=\"failure\"}";

/// A subnet controller that answers each request with this, or never.
struct Scripted {
    stopper: Stopper,
    server: Server,
    runtime: Runtime,
}

impl Scripted {
    fn start(world: &World, renewals: Option<&'static str>, list: Option<&'static str>) -> Self {
        let files = |name: &str| world.servers.path("etc/sarcenet/certs").join(name);
        let tls = ServerTls::load(ServerFiles {
            identity: IdentityFiles { certificate: files("server.crt"), key: files("server.key") },
            client_ca: Some(files("ca.crt")),
        });
        let router = Router::new().fallback(move |request: Request| async move {
            let answer = if request.uri().path() == "/leases" { list } else { renewals };
            match answer {
                Some(text) => text,
                None => std::future::pending().await,
            }
        });
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stopper, stop) = stop();
        let server = runtime.block_on(async {
            let limits = Limits { grace: Duration::ZERO, ..Limits::default() };
            let address = ([127, 0, 0, 1], 4103).into();
            let serve = Serve { name: "bad", address, tls: Some(tls.unwrap()), router, limits };
            Server::start(serve, &Metrics::default(), stop).await.unwrap()
        });
        Self { stopper, server, runtime }
    }

    fn end(self) {
        self.stopper.stop();
        self.runtime.block_on(self.server.finished());
    }
}

#[test]
fn a_server_that_answers_nonsense_changes_nothing() {
    in_cell(|world| {
        let (control, fake) = (world.servers.start(), world.dataplane());
        let _agent = world.agent();
        world.take("10.255.0.9/32", "10.77.0.13");
        eventually("the other cell is there", || fake.told.lock().peers.len() == 1);
        let before = (world.subnet(), fake.told.lock().peers.clone());
        control.end(Signal::SIGTERM);
        // What it answers to renewals and to who lists leases, and what fails then.
        let good = Some("{}");
        let empty = Some(r#"{"leases":[]}"#);
        let table = [
            (Some("<html>"), empty, FAILURES),
            (Some(""), empty, FAILURES),
            (None, empty, FAILURES),
            (good, None, UNCONVERGED),
            (good, good, UNCONVERGED),
            (good, empty, UNCONVERGED),
            (good, Some(r#"{"leases":[{"overlay_subnet":7}]}"#), UNCONVERGED),
        ];
        for (renewals, list, counted) in table {
            let bad = Scripted::start(world, renewals, list);
            let begin = metric(counted);
            eventually("counted", || metric(counted) > begin + 1);
            bad.end();
            let after = (world.subnet(), fake.told.lock().peers.clone());
            assert_eq!(after, before, "{renewals:?}, {list:?}");
        }
        let _control = world.servers.start();
        let begin = metric(SUCCESSES);
        eventually("all is well again", || metric(SUCCESSES) > begin + 1);
    });
}

/// Go's servers say no content type, and read and write keys in any case (contract section 0.2).
#[test]
fn keys_may_be_in_any_case_and_single_leases_may_be_wrong() {
    in_cell(|world| {
        let own = r#"{"Underlay_IP":"10.77.0.11","OVERLAY_SUBNET":"10.255.55.0/24",
            "overlay_Hardware_addr":"EE:EE:0A:FF:37:00","lease":null}"#;
        let list = r#"{"Leases":[{"underlay_ip":"10.77.0.11","overlay_subnet":"10.255.55.0/24",
                "overlay_hardware_addr":"ee:ee:0a:ff:37:00"},
            {"underlay_ip":"10.77.0.12","overlay_subnet":"10.255.62.0/24",
                "overlay_hardware_addr":"02:00:00:00:00:07"},
            {"underlay_ip":"10.77.0.13","overlay_subnet":"10.254.62.0/24",
                "overlay_hardware_addr":"ee:ee:0a:fe:3e:00"},
            {"underlay_ip":"10.77.0.14","overlay_subnet":"10.255.63.0"}]}"#;
        let server = Scripted::start(world, Some(own), Some(list));
        let fake = world.dataplane();
        let _agent = world.agent();
        assert_eq!(world.subnet(), "10.255.55.0/24");
        eventually("the good one is there", || fake.told.lock().peers.len() == 1);
        let peer = fake.told.lock().peers["10.255.62.0/24"];
        assert_eq!(peer.underlay.to_string(), "10.77.0.12");
        assert_eq!(peer.mac, [2, 0, 0, 0, 0, 7]);
        eventually("the others are counted", || metric("sarcenet_agent_unroutable_leases") == 2);
        server.end();
    });
}

#[test]
fn a_foreign_certificate_gets_nothing_until_it_is_replaced() {
    in_cell(|world| {
        let _control = world.servers.start();
        let certs = world.servers.path("etc/sarcenet/certs");
        let foreign = tempfile::tempdir().unwrap();
        let made = world.command(&["certs", "init", "--dir"]).arg(foreign.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let names = ["client.crt", "client.key"];
        let good = names.map(|name| fs::read(certs.join(name)).unwrap());
        for name in names {
            fs::copy(foreign.path().join(name), certs.join(name)).unwrap();
        }
        let mut agent = world.spawn();
        agent.logged("waiting for a lease");
        for (name, content) in names.iter().zip(&good) {
            fs::write(certs.join(name), content).unwrap();
        }
        agent.logged("lease acquired");
    });
}

#[test]
fn a_damaged_lease_file_is_moved_aside() {
    in_cell(|world| {
        let _control = world.servers.start();
        let agent = world.agent();
        let subnet = world.subnet();
        assert_eq!(agent.end(Signal::SIGKILL), None);
        fs::write(world.root.lease_file(), "{\"format\": 1, \"lea").unwrap();
        let mut agent = world.spawn();
        let told = agent.logged(world.root.lease_file().to_str().unwrap()).to_string();
        assert!(told.contains("was damaged (EOF while parsing"), "{told}");
        let told = agent.logged("sarcenet0 shows the lease from before");
        assert_eq!(told["subnet"], subnet);
        agent.logged("lease renewed");
        eventually("written again", || world.root.lease_file().exists());
    });
}

#[test]
fn containers_show_the_lease_when_nothing_else_does() {
    in_cell(|world| {
        let (_control, fake) = (world.servers.start(), world.dataplane());
        let agent = world.agent();
        let subnet = world.subnet();
        let container = Namespace::new("one");
        eventually("ready", || world.client().status().unwrap().dataplane.ready);
        let address = world.add(&container).address;
        assert_eq!(agent.end(Signal::SIGKILL), None);
        fs::remove_file(world.root.lease_file()).unwrap();
        host::remove().unwrap();
        let mut agent = world.spawn();
        assert_eq!(agent.logged("containers show the lease from before")["subnet"], subnet);
        agent.logged("lease renewed");
        eventually("told again", || fake.told.lock().snapshots == 2);
        let told = fake.told.lock();
        let containers: Vec<_> = told.containers.values().map(|one| one.0.address).collect();
        assert_eq!(containers, [address]);
    });
}

#[test]
fn a_full_disk_stops_no_lease() {
    in_cell(|world| {
        // This thread's mounts are its own from here on, and those of the processes that it starts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let _control = world.servers.start();
        let directory = world.root.lease_file().parent().unwrap().to_owned();
        fs::create_dir_all(&directory).unwrap();
        mount(Some("none"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=16k")).unwrap();
        let fake = world.dataplane();
        let ballast = directory.join("ballast");
        fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
        let agent = world.agent();
        let subnet = world.subnet();
        let unsaved = "sarcenet_agent_lease_save_failures_total";
        eventually("told", || metric(unsaved) > 1);
        eventually("in force", || fake.told.lock().cell.is_some());
        assert!(!world.root.lease_file().exists());
        // Without the file the device shows it.
        assert_eq!(agent.end(Signal::SIGKILL), None);
        let mut agent = world.spawn();
        agent.logged("lease renewed");
        agent.logged("cannot write ");
        fs::remove_file(&ballast).unwrap();
        agent.logged("leases can be written again");
        eventually("the same", || world.root.lease_file().exists() && world.subnet() == subnet);
    });
}
