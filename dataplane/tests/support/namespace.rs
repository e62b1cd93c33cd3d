//! Network namespaces for tests, each held by one thread and gone with it. Needs root, and `ip`.

use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};

/// How long a device may take to notice its other end. Non-urgent changes are looked at once a
/// second.
const CARRIER_PATIENCE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace without a name. It ends with the last thread that is in it.
pub(crate) struct Namespace {
    /// What `ip ... netns` calls it.
    pub(crate) id: Pid,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes one; its loopback interface is up.
    pub(crate) fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (ids, id) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need CAP_SYS_ADMIN");
            ids.send(gettid()).unwrap();
            for job in queue {
                job();
            }
        });
        let id = id.recv().expect("the namespace's thread");
        let namespace = Self { id, jobs: Some(jobs), thread: Some(thread) };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `job` in it and waits for the result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (results, result) = channel();
        let job = move || drop(results.send(job()));
        self.jobs.as_ref().unwrap().send(Box::new(job)).expect("the namespace's thread");
        result.recv().expect("the job panicked; see above")
    }

    /// Runs `ip` with these arguments, separated by spaces.
    pub(crate) fn ip(&self, arguments: &str) {
        self.command(&format!("ip {arguments}"));
    }

    /// Waits until a device whose other end came up after it sends what it is given. The kernel
    /// notices in a thread of its own, and throws packets away without a word until then
    /// (`linkwatch_do_dev` in `net/core/link_watch.c`, `dev_activate` in `net/sched/sch_generic.c`).
    pub(crate) fn wait_for_carrier(&self, name: &str) {
        let begun = Instant::now();
        while !self.command(&format!("ip -oneline link show dev {name}")).contains("state UP") {
            assert!(begun.elapsed() < CARRIER_PATIENCE, "{name} has no carrier");
            std::thread::sleep(Duration::from_millis(1));
        }
        // The state is seen a moment before the queue is active; this waits for the lock under
        // which both change.
        self.ip(&format!("link set {name} up"));
    }

    /// Runs a program with arguments, separated by spaces. Returns what it says.
    pub(crate) fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || {
            let (program, arguments) = words.split_first().expect("the name of a program");
            Command::new(program).args(arguments).output().expect("a program that is installed")
        });
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line} (nsenter -t {} -n): {error}", self.id);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Makes a TUN with this name and MTU, up, without addresses and without IPv6. Returns its
    /// descriptor.
    pub(crate) fn tun(&self, name: &'static str, mtu: u16) -> OwnedFd {
        let fd = self.run(move || {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            sarcenet_tun::TunDevice::open(name).unwrap().into_fd()
        });
        self.ip(&format!("link set {name} mtu {mtu} gso_max_size 61900 up"));
        fd
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a namespace's thread panicked");
        }
    }
}
