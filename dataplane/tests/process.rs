//! The program itself: started, told, stopped, killed and started again. Its tunnel is on the
//! loopback interface and carries nothing here.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sarcenet_dataplane_api::{
    Attach, Cell, Container, Logging, PortId, PortRange, Protocol, Revoke, Role, Rule, RuleId,
    RuleKey, TraceFilter, Tracking, Update, UplinkMode,
    client::{Client, Snapshot},
};
use sarcenet_tun::TunDevice;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A running dataplane; killed when dropped.
struct Dataplane {
    child: Child,
}

impl Dataplane {
    fn start(root: &Path) -> Self {
        Self::start_with(root, &["--workers", "2"])
    }

    fn start_with(root: &Path, arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_sarcenet-dataplane"))
            .args(["--flows", "4096", "--log", "json", "--root"])
            .arg(root)
            .args(arguments)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits for its end. Returns its exit code and what it logged.
    fn finish(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(root: &TempDir) -> PathBuf {
    root.path().join("run/sarcenet/dataplane.sock")
}

fn connect(root: &TempDir, role: Role) -> Client {
    let begun = Instant::now();
    loop {
        match Client::connect(&socket(root), role) {
            Ok(client) => return client,
            Err(e) => assert!(begun.elapsed() < PATIENCE, "{e}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A cell whose tunnel is on a port of the loopback interface that is free.
fn cell() -> Cell {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    Cell {
        underlay: Ipv4Addr::LOCALHOST,
        subnet: "10.255.55.0/24".parse().unwrap(),
        overlay: "10.255.0.0/16".parse().unwrap(),
        vni: 1,
        tunnel_port: free,
        mtu: 1450,
        revoke: Revoke::Drain,
        uplink: UplinkMode::Udp,
        host: false,
        outside: None,
        logging: Logging::default(),
        tracking: Tracking::default(),
        tag: 0,
        open: false,
    }
}

fn rules(count: u16) -> Vec<Rule> {
    let key = |n| RuleKey {
        source: n,
        destination: Ipv4Addr::new(10, 255, 55, 2),
        protocol: Protocol::Tcp,
        ports: PortRange { first: 8080, last: 8080 },
    };
    (1..=count).map(|n| Rule { id: RuleId(n.into()), key: key(n) }).collect()
}

fn furnish(client: &mut Client, count: u16) -> u64 {
    let snapshot =
        Snapshot { cell: Some((cell(), None)), rules: rules(count), ..Snapshot::default() };
    client.snapshot(&snapshot).unwrap()
}

#[test]
fn it_takes_state_and_stops_when_told() {
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(root.path());
    let mut controller = connect(&root, Role::Controller);
    assert_eq!(controller.generation(), 0);
    assert_eq!(furnish(&mut controller, 5_000), 1);
    let update = Update { rules_gone: vec![rules(1)[0].key], ..Update::default() };
    assert_eq!(controller.apply(update, &[]).unwrap(), 2);

    let status = connect(&root, Role::Observer).status().unwrap();
    assert_eq!((status.generation, status.rules, status.workers.len()), (2, 4_999, 2));
    let [uplink] = &status.links[..] else { panic!("{:?}", status.links) };
    assert_eq!((uplink.name.as_str(), uplink.mtu), ("uplink", 1450));
    assert!(uplink.mode.starts_with("udp"), "{}", uplink.mode);
    assert_eq!(status.flows.capacity, 4096);

    let trace = connect(&root, Role::Observer).trace(TraceFilter::default()).unwrap();
    dataplane.signal(Signal::SIGTERM);
    assert_eq!(trace.count(), 0);
    let (code, log) = dataplane.finish();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket(&root).exists());
    assert!(controller.status().is_err());
}

#[test]
fn it_gives_its_privileges_up() {
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(root.path());
    connect(&root, Role::Observer);
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", dataplane.child.id())).unwrap() {
        // The thread of a connection may end while we look.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len() + 1..].trim().to_owned()
        };
        let set = |name| u64::from_str_radix(&field(name), 16).unwrap();
        // NET_ADMIN, NET_RAW, IPC_LOCK, BPF.
        let kept = [12, 13, 14, 39].map(|bit| 1_u64 << bit).iter().sum::<u64>();
        assert_eq!(set("CapPrm") & !kept, 0, "{status}");
        assert_eq!((set("CapInh"), set("CapAmb"), field("NoNewPrivs").as_str()), (0, 0, "1"));
        threads += 1;
    }
    assert!(threads >= 4, "main, control and two workers, not {threads}");
    dataplane.signal(Signal::SIGINT);
    assert_eq!(dataplane.finish().0, Some(0));
}

#[test]
fn a_second_one_leaves_the_first_alone() {
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(root.path());
    let mut controller = connect(&root, Role::Controller);
    let (code, log) = Dataplane::start(root.path()).finish();
    assert_eq!(code, Some(1));
    assert!(log.contains("is already served by another process"), "{log}");
    assert_eq!(furnish(&mut controller, 1), 1);
    drop(dataplane);
}

#[test]
fn a_killed_one_makes_room_for_the_next() {
    let root = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let dataplane = Dataplane::start(root.path());
        let mut controller = connect(&root, Role::Controller);
        assert_eq!(controller.generation(), 0, "it must say that it has no state");
        assert_eq!(furnish(&mut controller, 10), 1);
        dataplane.signal(Signal::SIGKILL);
        dataplane.finish();
        assert!(socket(&root).exists(), "nobody was there to remove it");
    }
}

#[test]
fn a_tunnel_that_cannot_be_opened_is_a_refusal() {
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(root.path());
    let mut controller = connect(&root, Role::Controller);
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken_port = Cell { tunnel_port: taken.local_addr().unwrap().port(), ..cell() };
    let not_ours = Cell { underlay: [192, 0, 2, 1].into(), ..cell() };
    for cell in [taken_port, not_ours] {
        let snapshot =
            Snapshot { cell: Some((cell, None)), rules: rules(3), ..Snapshot::default() };
        let why = controller.snapshot(&snapshot).unwrap_err().to_string();
        assert!(why.contains("cannot open the uplink"), "{why}");
        let status = controller.status().unwrap();
        assert_eq!((status.generation, status.rules, status.links.len()), (0, 0, 0));
    }
    assert_eq!(furnish(&mut controller, 3), 1);
    drop(dataplane);
}

/// The queue of a TUN that is gone.
fn queue_without_device() -> OwnedFd {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let device = TunDevice::open("eth0").unwrap();
        let removed = Command::new("ip").args(["link", "del", "eth0"]).status().unwrap();
        assert!(removed.success());
        device.into_fd()
    });
    made.join().unwrap()
}

#[test]
fn a_container_that_ends_meanwhile_spoils_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(root.path());
    let mut controller = connect(&root, Role::Controller);
    let container = Container {
        port: PortId(2),
        address: Ipv4Addr::new(10, 255, 55, 2),
        tag: 1,
        name: "gone".into(),
        attach: Attach::Tun,
    };
    let mut furnish_with = |queue: &OwnedFd| {
        controller.snapshot(&Snapshot {
            cell: Some((cell(), None)),
            containers: vec![(container.clone(), queue.as_fd())],
            rules: rules(3),
            ..Snapshot::default()
        })
    };
    let no_tun = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let why = furnish_with(&no_tun).unwrap_err().to_string();
    assert!(why.contains("cannot use the descriptor that came for container gone"), "{why}");
    assert_eq!(furnish_with(&queue_without_device()).unwrap(), 1);
    assert_eq!(connect(&root, Role::Observer).status().unwrap().rules, 3);
    drop(dataplane);
}

/// Processors that this process may use, as the kernel lists them.
fn allowed(status: &str) -> &str {
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim()
}

#[test]
fn workers_stay_on_the_processors_they_are_pinned_to() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let all = allowed(&own);
    let core = all.split(['-', ',']).next().unwrap();
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start_with(root.path(), &["--pin", core]);
    let [worker] = &connect(&root, Role::Observer).status().unwrap().workers[..] else {
        panic!("not one worker");
    };
    assert_eq!(worker.cpu, core.parse().ok());
    let mut workers = 0;
    for task in fs::read_dir(format!("/proc/{}/task", dataplane.child.id())).unwrap() {
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        let is_worker = status.starts_with("Name:\tworker-");
        assert_eq!(allowed(&status), if is_worker { core } else { all }, "{status}");
        workers += usize::from(is_worker);
    }
    assert_eq!(workers, 1);
    dataplane.signal(Signal::SIGTERM);
    let (code, log) = dataplane.finish();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"packet_pools\":\"") && log.contains("pages\""), "{log}");
}

#[test]
fn processors_that_cannot_be_had_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (code, log) = Dataplane::start_with(root.path(), &["--pin", "1023"]).finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--pin: there is no processor 1023: this machine has "), "{log}");
    for arguments in [&["--pin", "0-"][..], &["--pin", "0,0"], &["--pin", "0", "--workers", "1"]] {
        let (code, log) = Dataplane::start_with(root.path(), arguments).finish();
        assert_eq!(code, Some(2), "{arguments:?}: {log}");
    }
}

/// Queues of TUNs in a namespace of their own, which lives as long as they do.
fn queues(count: u16) -> Vec<OwnedFd> {
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        (0..count).map(|n| TunDevice::open(&format!("c{n}")).unwrap().into_fd()).collect()
    });
    made.join().unwrap()
}

#[test]
fn containers_are_spread_and_later_ones_go_where_others_have_left() {
    let root = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(root.path());
    let mut controller = connect(&root, Role::Controller);
    let queues = queues(9);
    let container = |n: u16| Container {
        port: PortId(n),
        address: Ipv4Addr::new(10, 255, 55, n as u8 + 2),
        tag: 1,
        name: format!("container {n}"),
        attach: Attach::Tun,
    };
    let fds = |range: std::ops::Range<u16>| {
        range.map(|n| queues[usize::from(n)].as_fd()).collect::<Vec<_>>()
    };
    let snapshot = Snapshot {
        cell: Some((cell(), None)),
        containers: (0..6).map(container).zip(fds(0..6)).collect(),
        ..Snapshot::default()
    };
    controller.snapshot(&snapshot).unwrap();
    // Ports by the worker that reads them.
    let ports = || {
        let mut ports = [Vec::new(), Vec::new()];
        for link in connect(&root, Role::Observer).status().unwrap().links {
            let [reader] = link.readers[..] else { panic!("{link:?}") };
            ports[usize::from(reader)].extend(link.port);
        }
        ports
    };
    let before = ports();
    assert_eq!(before.each_ref().map(Vec::len), [3, 3]);
    // All that one worker reads go.
    let update = Update { containers_gone: before[1].clone(), ..Update::default() };
    controller.apply(update, &[]).unwrap();
    assert_eq!(ports(), [before[0].clone(), vec![]]);
    let update = Update { containers: (6..9).map(container).collect(), ..Update::default() };
    controller.apply(update, &fds(6..9)).unwrap();
    assert_eq!(ports(), [before[0].clone(), (6..9).map(PortId).collect()]);
    drop(dataplane);
}
