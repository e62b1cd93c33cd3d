//! A cell for one test: its own network namespace, in which the servers run too.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use sarcenet_agent_api::{
    AgentClient, AgentError, Attach, AttachKind, Attachment, AttachmentId, Terms, Wishes,
};
use sarcenet_control::netlink::{LinkSettings, Netlink};
use sarcenet_control::paths::Root;
use sarcenet_tun::TunDevice;
use serde_json::Value;

use crate::fake::Fake;
use crate::process::Process;
use crate::servers;

/// Nobody else is in the namespace, so that ports can be known beforehand.
const CONTROL: &str = "\
roles: [subnet-controller]
database: sqlite:/srv/control.db
leases: {listen: '127.0.0.1:4103', overlay: 10.255.0.0/16, block_prefix: 24}
status: {listen: '127.0.0.1:19683'}
";

const NETWORK: &str = "\
overlay: 10.255.0.0/16
control:
  underlay: 10.77.0.11
  leases: {url: 'https://127.0.0.1:4103', interval: 1, timeout: 1}
  policies: {url: 'https://127.0.0.1:4003'}
";

/// The cell's address on the underlay, and the port where it tells of health and metrics.
pub(crate) const UNDERLAY: &str = "10.77.0.11";
pub(crate) const STATUS: u16 = 23955;
/// Where it tells of its subnet.
pub(crate) const INFO: u16 = 23954;

pub(crate) struct World {
    pub(crate) servers: servers::World,
    pub(crate) root: Root,
    _underlay: OwnedFd,
}

/// Runs a test on a thread in a network namespace of its own, in which a device has the underlay's
/// address. Everything in the namespace ends with it.
pub(crate) fn in_cell(test: impl FnOnce(&World) + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; these tests need root");
            let netlink = Netlink::open().unwrap();
            netlink.bring_loopback_up().unwrap();
            let underlay = TunDevice::open("underlay0").unwrap();
            let link = netlink.link("underlay0").unwrap().unwrap();
            netlink.bring_up(&link, LinkSettings { mtu: 1500, gso_max_size: None }).unwrap();
            netlink.set_address(&link, UNDERLAY.parse().unwrap(), 24, false).unwrap();
            let servers = servers::World::new(CONTROL);
            fs::create_dir(servers.path("srv")).unwrap();
            let root = Root::new(servers.path(""));
            fs::write(root.network_file(), NETWORK).unwrap();
            fs::create_dir_all(root.dataplane_socket().parent().unwrap()).unwrap();
            test(&World { servers, root, _underlay: underlay.into_fd() });
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.servers.command(words)
    }

    /// Changes the network file.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let file = self.root.network_file();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).unwrap();
    }

    /// The agent, before anything is known of it.
    pub(crate) fn spawn(&self) -> Process {
        Process::spawn(self.command(&["agent", "--cell", "cell1", "--log", "json"]))
    }

    /// The agent, when it serves.
    pub(crate) fn agent(&self) -> Process {
        let agent = self.spawn();
        eventually("the agent serves", || AgentClient::connect(&self.root.agent_socket()).is_ok());
        agent
    }

    pub(crate) fn dataplane(&self) -> Fake {
        Fake::start(&self.root.dataplane_socket())
    }

    pub(crate) fn client(&self) -> AgentClient {
        AgentClient::connect(&self.root.agent_socket()).unwrap()
    }

    /// The agent's subnet.
    pub(crate) fn subnet(&self) -> String {
        self.client().status().unwrap().subnet.to_string()
    }

    /// Subnets and underlay addresses of all leases, as `sarcenet leases` lists them.
    pub(crate) fn leases(&self) -> Vec<(String, String)> {
        let words = ["leases", "--server", "https://127.0.0.1:4103", "--json"];
        let listed = self.command(&words).output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        let leases: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let text = |lease: &Value, key: &str| lease[key].as_str().unwrap().to_owned();
        let leases = leases.as_array().unwrap().iter();
        leases.map(|lease| (text(lease, "overlay_subnet"), text(lease, "underlay_ip"))).collect()
    }

    /// Asks the subnet controller as another cell would.
    pub(crate) fn put(&self, path: &str, body: &str) -> (u16, String) {
        let client = self.servers.client();
        let url = format!("https://127.0.0.1:4103/leases/{path}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let response = client.put(url).body(body.to_owned()).send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        })
    }

    /// Has another cell renew a lease of this subnet.
    pub(crate) fn take(&self, subnet: &str, underlay: &str) {
        let [a, b, c, d] =
            subnet.split_once('/').unwrap().0.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let mac = format!("ee:ee:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let body = format!(
            r#"{{"underlay_ip":"{underlay}","overlay_subnet":"{subnet}","overlay_hardware_addr":"{mac}"}}"#
        );
        assert_eq!(self.put("renew", &body), (200, "{}".to_owned()));
    }

    /// Removes the servers' database.
    pub(crate) fn wipe(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.servers.path(&format!("srv/control.db{suffix}")));
        }
    }

    pub(crate) fn add(&self, container: &Namespace) -> Attachment {
        self.add_of(container, "app-a", Terms::default())
    }

    /// Adds a container of this app, with these terms.
    pub(crate) fn add_of(&self, container: &Namespace, app: &str, terms: Terms) -> Attachment {
        self.try_add(container, app, terms).unwrap()
    }

    /// Tries to.
    pub(crate) fn try_add(
        &self,
        container: &Namespace,
        app: &str,
        terms: Terms,
    ) -> Result<Attachment, AgentError> {
        let wish = Attach {
            id: container.id(),
            netns_path: format!("/proc/{}/fd/{}", std::process::id(), container.netns.as_raw_fd()),
            network: "network".into(),
            app: Some(app.into()),
            kind: AttachKind::Tun,
            wishes: Wishes::default(),
            terms,
        };
        self.client().add(wish, container.netns.as_fd())
    }
}

/// A number of the agent's metrics.
pub(crate) fn metric(name: &str) -> i64 {
    let (status, text) = ask(STATUS, "GET /metrics");
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// The status of the agent's health, and what is wrong.
pub(crate) fn health() -> (u16, String) {
    ask(STATUS, "GET /health")
}

/// A request to this port, and the answer's status and body.
pub(crate) fn ask(port: u16, request: &str) -> (u16, String) {
    ask_with(port, request, "")
}

/// The same with a body.
pub(crate) fn ask_with(port: u16, request: &str, body: &str) -> (u16, String) {
    let mut stream = None;
    eventually("somebody listens", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    let length = body.len();
    let head = format!("Host: cell\r\nConnection: close\r\nContent-Length: {length}");
    write!(stream, "{request} HTTP/1.1\r\n{head}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A container's network namespace, as long as this lives.
pub(crate) struct Namespace {
    name: String,
    netns: OwnedFd,
}

impl Namespace {
    pub(crate) fn new(name: &str) -> Self {
        let netns = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(fs::File::open("/proc/thread-self/ns/net").unwrap())
        });
        Self { name: name.into(), netns: netns.join().unwrap() }
    }

    pub(crate) fn id(&self) -> AttachmentId {
        AttachmentId { container: self.name.clone(), ifname: "eth0".into() }
    }
}

/// Waits until something is so; fails the test when it never is.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !so() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
