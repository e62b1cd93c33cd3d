//! A cell for one test: its own network namespace, root directory and agent.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use sarcenet_agent_api::{
    AgentClient, AgentError, Attach, AttachKind, Attachment, AttachmentId, ErrorCode, Expected,
    Terms, Wishes,
};
use sarcenet_control::address_watch::AddressWatch;
use sarcenet_control::agent::{Agent, Options};
use sarcenet_control::netlink::Netlink;
use sarcenet_control::netns;
use sarcenet_control::paths::Root;
use sarcenet_control::server::Server;
use sarcenet_control::watch::Watch;
use sarcenet_tun::TunDevice;

use crate::fake::{Fake, Told};

pub(crate) const NETWORK: &str = "\
overlay: 10.255.0.0/16
mtu: 1450
cells:
  - {name: cell1, underlay: 10.77.0.11, subnet: 10.255.55.0/24}
  - {name: cell2, underlay: 10.77.0.12, subnet: 10.255.62.0/24}
apps:
  - {id: app-a, tag: 1}
  - {id: app-b, tag: 2}
policies: []
";

/// Runs a test on a thread in a network namespace of its own, whose loopback device carries the
/// underlay address. Everything in the namespace ends with it.
pub(crate) fn in_cell(test: impl FnOnce(&World) + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; these tests need root");
            let netlink = Netlink::open().unwrap();
            netlink.bring_loopback_up().unwrap();
            let lo = netlink.link("lo").unwrap().unwrap();
            netlink.set_address(&lo, [10, 77, 0, 11].into(), 32, false).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let root = Root::new(directory.path());
            std::fs::create_dir_all(root.network_file().parent().unwrap()).unwrap();
            std::fs::write(root.network_file(), NETWORK).unwrap();
            test(&World { root, _directory: directory });
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(crate) struct World {
    pub(crate) root: Root,
    _directory: tempfile::TempDir,
}

impl World {
    pub(crate) fn network(&self) -> PathBuf {
        self.root.network_file()
    }

    pub(crate) fn options(&self) -> Options {
        let network = self.root.network_file();
        Options { root: self.root.clone(), cell: "cell1".into(), network }
    }

    pub(crate) fn dataplane(&self) -> Fake {
        Fake::start(&self.root.dataplane_socket())
    }

    pub(crate) fn dataplane_with(&self, told: Told) -> Fake {
        Fake::start_with(&self.root.dataplane_socket(), told)
    }

    pub(crate) fn agent(&self) -> RunningAgent {
        let agent = Agent::new(self.options()).unwrap();
        let keeper = agent.start().unwrap();
        let server = Server::start(Arc::clone(&agent), None, &self.root.agent_socket()).unwrap();
        let read = Arc::clone(&agent);
        let watch = Watch::start(self.network(), move || read.reload()).unwrap();
        let addresses = AddressWatch::start(Arc::clone(&agent)).unwrap();
        RunningAgent {
            agent,
            keeper: Some(keeper),
            server: Some(server),
            watch: Some(watch),
            addresses: Some(addresses),
        }
    }

    pub(crate) fn client(&self) -> AgentClient {
        AgentClient::connect(&self.root.agent_socket()).unwrap()
    }

    pub(crate) fn add(&self, container: &Namespace, app: &str) -> Attachment {
        self.client().add(container.wish(app), container.netns.as_fd()).unwrap()
    }
}

/// An agent with all its threads; ends when dropped, as a killed one would: nothing is undone.
pub(crate) struct RunningAgent {
    pub(crate) agent: Arc<Agent>,
    keeper: Option<JoinHandle<()>>,
    server: Option<Server>,
    watch: Option<Watch>,
    addresses: Option<AddressWatch>,
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.server.take();
        self.watch.take();
        self.addresses.take();
        self.agent.stop();
        if let Some(keeper) = self.keeper.take() {
            keeper.join().unwrap();
        }
    }
}

/// A container's network namespace, as long as this lives.
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) netns: OwnedFd,
}

impl Namespace {
    pub(crate) fn new(name: &str) -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        Self { name: name.into(), netns: netns.join().unwrap() }
    }

    pub(crate) fn id(&self) -> AttachmentId {
        AttachmentId { container: self.name.clone(), ifname: "eth0".into() }
    }

    /// A path by which the namespace can be opened again, as a bind mount is for a real one.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    pub(crate) fn wish(&self, app: &str) -> Attach {
        Attach {
            id: self.id(),
            netns_path: self.path(),
            network: "network".into(),
            app: Some(app.into()),
            kind: AttachKind::Tun,
            wishes: Wishes::default(),
            terms: Terms::default(),
        }
    }

    /// Asks the kernel about the namespace.
    pub(crate) fn ask<T: Send>(&self, question: impl FnOnce(&Netlink) -> T + Send) -> T {
        netns::inside(self.netns.as_fd(), || question(&Netlink::open().unwrap())).unwrap()
    }

    pub(crate) fn has_eth0(&self) -> bool {
        self.ask(|netlink| netlink.link("eth0").unwrap().is_some())
    }

    /// Names of all its devices, sorted.
    pub(crate) fn devices(&self) -> Vec<String> {
        let read = || -> Vec<String> {
            let index = nix::net::if_::if_nameindex().unwrap();
            index.iter().map(|device| device.name().to_str().unwrap().to_owned()).collect()
        };
        let mut names = netns::inside(self.netns.as_fd(), read).unwrap();
        names.sort();
        names
    }

    /// Somebody else's `eth0`, as long as what is returned lives.
    pub(crate) fn foreign_eth0(&self) -> OwnedFd {
        let open = || TunDevice::open("eth0").unwrap().into_fd();
        netns::inside(self.netns.as_fd(), open).unwrap()
    }

    pub(crate) fn addresses(&self) -> Vec<(Ipv4Addr, u8)> {
        self.ask(|netlink| {
            let eth0 = netlink.link("eth0").unwrap().unwrap();
            netlink.addresses(&eth0).unwrap()
        })
    }
}

/// What somebody believes who knows the address.
pub(crate) fn with_address(address: Ipv4Addr) -> Expected {
    Expected { address: Some(address), ..Expected::default() }
}

/// Waits until something is so; fails the test when it never is.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Fails unless the agent refused with this code and these words.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(
    answer: Result<T, AgentError>,
    expected: ErrorCode,
    words: &str,
) {
    match answer {
        Err(AgentError::Refused { code, message }) => {
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(words), "`{words}` is not in {message}");
        }
        other => panic!("not refused: {other:?}"),
    }
}
