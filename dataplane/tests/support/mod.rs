//! Network namespaces for tests, each held by one thread and gone with it. Needs root, and `ip`.

pub(crate) mod traffic;

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};

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

    /// Starts a thread in it. Threads inherit the namespace of their parent.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.run(|| std::thread::spawn(job))
    }

    /// Runs `ip` with these arguments, separated by spaces.
    pub(crate) fn ip(&self, arguments: &str) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let output = self.run({
            let arguments = arguments.clone();
            move || Command::new("ip").args(arguments).output().expect("ip (iproute2)")
        });
        let error = String::from_utf8_lossy(&output.stderr);
        let command = arguments.join(" ");
        assert!(output.status.success(), "ip {command} (nsenter -t {} -n): {error}", self.id);
    }

    /// Makes a TUN `eth0` with this address and MTU, and routes everything through it, as a
    /// container has it; without IPv6. Returns its descriptor.
    pub(crate) fn container(&self, address: std::net::Ipv4Addr, mtu: u16) -> std::os::fd::OwnedFd {
        let fd = self.run(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            sarcenet_tun::TunDevice::open("eth0").unwrap().into_fd()
        });
        self.ip(&format!("link set eth0 mtu {mtu} gso_max_size 61900 up"));
        self.ip(&format!("addr add {address}/32 dev eth0"));
        self.ip("route add default dev eth0");
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

/// Bytes that say where in the stream they are, so that a lost, doubled or moved one shows.
pub(crate) fn pattern(at: u64, buffer: &mut [u8]) {
    for (word, chunk) in (at / 8..).zip(buffer.chunks_mut(8)) {
        let bytes = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}
