//! Taking over what a dataplane holds, and making anew what nobody holds.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tracing::{info, warn};

use super::{Agent, open_namespace};
use crate::attach::{self, Interface};
use crate::dataplane::Held;
use crate::state::Saved;
use crate::{desired, host};

impl Agent {
    /// Takes the queues that the dataplane holds and this agent does not, makes those interfaces
    /// anew whose queue nobody holds, and publishes the result.
    pub(super) fn adopt(&self, held: Held) {
        let Held { host, ports } = held;
        self.adopt_host(host);
        let mut inner = self.inner.lock();
        let subnet = inner.cell.subnet;
        let mut held: BTreeMap<_, _> = ports
            .into_iter()
            .filter(|(_, fd)| !attach::is_gone(fd))
            .map(|(info, fd)| ((info.port, info.address), fd))
            .collect();
        for entry in inner.containers.values_mut().filter(|entry| entry.is_lost()) {
            entry.queue = None;
            let address = entry.saved.address;
            if let Some(fd) = held.remove(&(desired::port(subnet, address), address)) {
                entry.queue = Some(Arc::new(fd));
                entry.problem = None;
            }
        }
        drop(held);
        let lost: Vec<(Saved, Interface)> = inner
            .containers
            .values()
            .filter(|entry| entry.queue.is_none())
            .map(|entry| (entry.saved.clone(), inner.interface(&entry.saved)))
            .collect();
        drop(inner);
        for (saved, interface) in lost {
            let opened = open_namespace(&saved).and_then(|netns| interface.make(netns.as_fd()));
            let mut inner = self.inner.lock();
            let Some(entry) = inner.containers.get_mut(&saved.id) else { continue };
            match opened {
                Ok(queue) if entry.saved == saved && entry.queue.is_none() => {
                    info!(container = %saved.id, "interface made anew");
                    entry.queue = Some(Arc::new(queue));
                    entry.problem = None;
                }
                Ok(_) => {}
                Err(e) => {
                    warn!(container = %saved.id, "interface lost: {e}");
                    entry.problem = Some(e.to_string());
                }
            }
        }
        let mut inner = self.inner.lock();
        for entry in inner.containers.values_mut() {
            entry.sought = true;
        }
        self.publish(&mut inner);
    }

    /// Takes the host TUN's queue from the dataplane, or makes the device anew when nobody who
    /// can be asked has it.
    fn adopt_host(&self, held: Option<OwnedFd>) {
        let (subnet, overlay, mtu) = {
            let inner = self.inner.lock();
            if inner.host.is_some() {
                return;
            }
            (inner.cell.subnet, inner.network.overlay, inner.mtu)
        };
        let queue = match held {
            Some(queue) => host::set_up(subnet, overlay, mtu).map(|()| queue),
            None => host::make(subnet, overlay, mtu).and_then(|made| match made {
                Some(queue) => Ok(queue),
                None => host::make_anew(subnet, overlay, mtu),
            }),
        };
        let mut inner = self.inner.lock();
        match queue {
            Ok(queue) => {
                inner.host = Some(Arc::new(queue));
                inner.host_problem = None;
            }
            Err(e) => {
                let problem = format!(
                    "the cell's own processes cannot reach containers: cannot set {} up: {e}",
                    host::DEVICE
                );
                warn!("{problem}");
                inner.host_problem = Some(problem);
            }
        }
    }
}
