//! Whether containers are as they were made, and which of them are still wanted.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use sarcenet_agent_api::{AttachmentId, ErrorCode, Expected};
use tracing::info;

use super::{Agent, Failure};
use crate::{desired, netns};

impl Agent {
    /// Compares an interface with what was made, and with what the caller believes of it.
    pub fn check(
        &self,
        id: &AttachmentId,
        expected: &Expected,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let Expected { address, default_route, bandwidth } = *expected;
        let _one_at_a_time = self.operations.lock();
        let (entry, interface, port) = {
            let inner = self.inner.lock();
            let Some(entry) = inner.containers.get(id) else {
                return Err(Failure::new(ErrorCode::Unknown, format!("{id} is not attached")));
            };
            let port = desired::port(inner.cell.subnet, entry.saved.address);
            (entry.clone(), inner.interface(&entry.saved), port)
        };
        let differs = |message: String| Err(Failure::new(ErrorCode::Namespace, message));
        let given = entry.saved.address;
        if let Some(believed) = address.filter(|believed| *believed != given) {
            return differs(format!("{id} has the address {given}, not {believed}"));
        }
        if bandwidth.is_some_and(|believed| believed != entry.saved.terms.bandwidth) {
            return differs(format!("{id} has other limits on its traffic"));
        }
        if netns::inode(netns).ok() != Some(entry.saved.netns_inode) {
            return differs(format!("{id} is attached in another network namespace"));
        }
        interface.check(netns, default_route)?;
        if let Some(queue) = &entry.queue
            && !interface.is_of(queue, netns)?
        {
            let ifname = &entry.saved.id.ifname;
            return differs(format!("{ifname} is not the device that was made for {id}"));
        }
        match &entry.queue {
            Some(queue) if self.dataplane.has(port, queue) => Ok(()),
            _ => {
                let message = format!("the dataplane does not have the port of {id}");
                Err(Failure::new(ErrorCode::Dataplane, message))
            }
        }
    }

    /// Removes every interface of the network that is not in `valid`.
    pub fn gc(&self, network: &str, valid: &BTreeSet<AttachmentId>) -> Result<(), Failure> {
        if network.is_empty() {
            let message = "the network whose containers are to be removed has no name";
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        let _one_at_a_time = self.operations.lock();
        let doomed: Vec<AttachmentId> = {
            let inner = self.inner.lock();
            let own = inner.containers.values().filter(|entry| entry.saved.network == network);
            own.map(|entry| &entry.saved.id).filter(|id| !valid.contains(id)).cloned().collect()
        };
        for saved in self.remove(&doomed)? {
            info!(container = %saved.id, address = %saved.address, "not wanted any more: detached");
        }
        Ok(())
    }
}
