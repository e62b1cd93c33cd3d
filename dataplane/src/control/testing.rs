//! Doors that lead nowhere and remember who came.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use sarcenet_dataplane_api::{Attach, LinkStatus, PortId, WorkerStatus};

use super::doors::{DoorError, Doors};
use crate::{
    pipeline::{Shared, Totals},
    worker::{OutsideSettings, UplinkSettings},
};

/// What was done to a door, and what was in force at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Uplink(UplinkSettings),
    Host(Option<u16>),
    Add { port: PortId, mtu: u16, generation: u32, rules: usize },
    Remove { port: PortId, still_there: bool },
}

pub(crate) struct FakeDoors {
    shared: Arc<Shared>,
    log: Mutex<Vec<Event>>,
    queues: Mutex<BTreeMap<PortId, OwnedFd>>,
    host: Mutex<Option<OwnedFd>>,
    pub(crate) uplink_fails: AtomicBool,
    /// An uplink is being opened for as long as this is held.
    pub(crate) uplink_busy: Mutex<()>,
    /// How often one was asked for.
    pub(crate) uplink_asked: AtomicU32,
    /// Whether the uplink's interface is gone; an uplink that is opened has another.
    pub(crate) uplink_gone: AtomicBool,
    /// The cells that the uplink was told of last.
    pub(crate) peers: Mutex<Vec<Ipv4Addr>>,
    /// What was to be taken from the kernel last.
    pub(crate) outside: Mutex<Option<OutsideSettings>>,
}

impl FakeDoors {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            log: Mutex::default(),
            queues: Mutex::default(),
            host: Mutex::default(),
            uplink_fails: AtomicBool::new(false),
            uplink_busy: Mutex::default(),
            uplink_asked: AtomicU32::new(0),
            uplink_gone: AtomicBool::new(false),
            peers: Mutex::default(),
            outside: Mutex::default(),
        }
    }

    /// What happened since the last call.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.log.lock())
    }

    fn duplicate(fd: Option<&OwnedFd>) -> Option<OwnedFd> {
        fd.map(|fd| fd.try_clone().expect("a descriptor can be duplicated"))
    }
}

/// A descriptor that [`FakeDoors`] take for a TUN queue.
pub(crate) fn queue() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null can be opened").into()
}

/// A descriptor that they do not.
pub(crate) fn no_queue() -> OwnedFd {
    File::open("/").expect("the root directory can be opened").into()
}

impl Doors for FakeDoors {
    fn set_uplink(&self, settings: UplinkSettings) -> Result<String, DoorError> {
        self.uplink_asked.fetch_add(1, Ordering::Relaxed);
        let _busy = self.uplink_busy.lock();
        if self.uplink_fails.load(Ordering::Relaxed) {
            return Err("the address is not available".into());
        }
        self.uplink_gone.store(false, Ordering::Relaxed);
        self.log.lock().push(Event::Uplink(settings));
        Ok("nowhere".into())
    }

    fn has_uplink(&self) -> bool {
        !self.uplink_gone.load(Ordering::Relaxed)
    }

    fn set_peers(&self, peers: Vec<Ipv4Addr>) {
        *self.peers.lock() = peers;
    }

    fn set_host(&self, host: Option<(OwnedFd, u16)>) -> Result<(), DoorError> {
        let (fd, mtu) = host.unzip();
        *self.host.lock() = fd;
        self.log.lock().push(Event::Host(mtu));
        Ok(())
    }

    fn set_outside(&self, settings: Option<OutsideSettings>) -> Result<(), DoorError> {
        *self.outside.lock() = settings;
        Ok(())
    }

    fn tend_outside(&self) -> Result<(), DoorError> {
        Ok(())
    }

    fn check_queue(&self, queue: BorrowedFd<'_>, _: Attach) -> Result<(), DoorError> {
        let queue = File::from(queue.try_clone_to_owned()?);
        if queue.metadata()?.is_dir() {
            return Err("a directory is no queue".into());
        }
        Ok(())
    }

    fn add_container(
        &self,
        port: PortId,
        _: &str,
        _: Attach,
        queue: OwnedFd,
        mtu: u16,
    ) -> Result<(), DoorError> {
        self.queues.lock().insert(port, queue);
        let generation = self.shared.topology().generation();
        let rules = self.shared.policy.len();
        self.log.lock().push(Event::Add { port, mtu, generation, rules });
        Ok(())
    }

    fn remove_container(&self, port: PortId) {
        self.queues.lock().remove(&port);
        let still_there = self.shared.topology().container(port).is_some();
        self.log.lock().push(Event::Remove { port, still_there });
    }

    fn port_fd(&self, port: PortId) -> Option<OwnedFd> {
        Self::duplicate(self.queues.lock().get(&port))
    }

    fn host_fd(&self) -> Option<OwnedFd> {
        Self::duplicate(self.host.lock().as_ref())
    }

    fn links(&self) -> Vec<LinkStatus> {
        let link = |(&port, _): (&PortId, &OwnedFd)| LinkStatus {
            name: format!("port {}", port.0),
            port: Some(port),
            mode: "nowhere".into(),
            mtu: 1450,
            readers: Vec::new(),
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            errors: 0,
        };
        self.queues.lock().iter().map(link).collect()
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        Vec::new()
    }

    fn totals(&self) -> Totals {
        Totals::default()
    }

    fn now_ns(&self) -> u64 {
        0
    }
}
