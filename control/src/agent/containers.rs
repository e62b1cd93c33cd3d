//! Attaching and detaching containers.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sarcenet_agent_api::{
    Attach, AttachKind, Attachment, AttachmentId, ErrorCode, Extension, MIN_MTU, Terms, Wishes,
    is_container_id,
};
use tracing::{info, warn};

use super::{Agent, Entry, Failure, Inner, PATIENCE, open_namespace, terms};
use crate::attach::{self, AttachError, Interface};
use crate::state::{Saved, State};
use crate::{desired, ipam, netns};

impl Agent {
    /// Makes an interface, or makes sure that it still is as it was made.
    ///
    /// The address is on the disk before anything else happens, so that no crash can give it
    /// away twice; whatever fails later is undone.
    pub fn add(&self, wish: Attach, netns: BorrowedFd<'_>) -> Result<Attachment, Failure> {
        check_wish(&wish)?;
        let netns_inode =
            netns::inode(netns).map_err(|e| Failure::from(AttachError::Namespace(e)))?;
        let _one_at_a_time = self.operations.lock();
        let known = self.inner.lock().containers.get(&wish.id).cloned();
        match known {
            Some(entry) if entry.saved.netns_inode != netns_inode && has_vanished(&entry) => {
                // A runtime that was killed may not know that it had this container before.
                self.remove(std::slice::from_ref(&wish.id))?;
                self.add_new(wish, netns, netns_inode)
            }
            Some(entry) => self.add_again(entry, wish, netns, netns_inode),
            None => self.add_new(wish, netns, netns_inode),
        }
    }

    fn add_new(
        &self,
        wish: Attach,
        netns: BorrowedFd<'_>,
        netns_inode: u64,
    ) -> Result<Attachment, Failure> {
        let (before, saved, interface) = {
            let mut inner = self.inner.lock();
            let Attach { id, network, netns_path, app, kind, wishes, terms } = wish;
            let address = free_address(&inner, wishes.address)?;
            let Wishes { mac, mtu, .. } = wishes;
            let terms = Arc::new(terms);
            let saved = Saved {
                id,
                address,
                netns_path,
                netns_inode,
                network,
                app,
                kind,
                mac,
                mtu,
                attached_at: Some(seconds_since_1970()),
                terms,
            };
            terms::check(&saved)?;
            terms::check_ports(&inner, &saved)?;
            // An address whose attachment fails counts as given: what was made of it may linger.
            inner.last_address = Some(address);
            let interface = inner.interface(&saved);
            (inner.state(), saved, interface)
        };
        let mut after = before.clone();
        after.containers.insert(saved.id.clone(), saved.clone());
        self.store.save(&after)?;

        let queue = interface.make(netns).inspect_err(|_| {
            self.take_back(&before);
        })?;
        let queue = Arc::new(queue);
        let version = {
            let mut inner = self.inner.lock();
            let entry = Entry::attached(saved.clone(), queue);
            inner.containers.insert(saved.id.clone(), entry);
            self.publish(&mut inner)
        };
        if let Err(e) = self.dataplane.wait(version, PATIENCE) {
            {
                let mut inner = self.inner.lock();
                inner.containers.remove(&saved.id);
                self.publish(&mut inner);
            }
            remove_interface(&saved);
            self.take_back(&before);
            return Err(Failure::new(ErrorCode::Dataplane, e.to_string()));
        }
        info!(container = %saved.id, address = %saved.address, app = saved.app, "attached");
        Ok(attachment(&self.inner.lock(), &saved))
    }

    /// Writes the state from before a failed change. When not even that works, the address stays
    /// reserved until the container is deleted: lost, but never given twice.
    fn take_back(&self, state: &State) {
        if let Err(e) = self.store.save(state) {
            warn!("cannot take a reserved address back: {e}");
        }
    }

    fn add_again(
        &self,
        entry: Entry,
        wish: Attach,
        netns: BorrowedFd<'_>,
        netns_inode: u64,
    ) -> Result<Attachment, Failure> {
        let Entry { mut saved, queue, .. } = entry;
        if saved.netns_inode != netns_inode {
            let message = format!(
                "{} is attached in another network namespace ({}); DEL it first",
                saved.id, saved.netns_path
            );
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        if saved.kind != wish.kind {
            let message = format!(
                "{} is attached by {}, not {}; DEL it first",
                saved.id, saved.kind, wish.kind
            );
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        let Wishes { address, mac, mtu } = wish.wishes;
        if mac != saved.mac || address.is_some_and(|address| address != saved.address) {
            let message = format!(
                "{} is attached with another address or MAC address than this; DEL it first",
                saved.id
            );
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        let before = saved.clone();
        (saved.network, saved.app, saved.mtu) = (wish.network, wish.app, mtu);
        saved.netns_path = wish.netns_path;
        if *saved.terms != wish.terms {
            saved.terms = Arc::new(wish.terms);
            terms::check(&saved)?;
        }
        if saved != before {
            let mut state = {
                let inner = self.inner.lock();
                terms::check_ports(&inner, &saved)?;
                inner.state()
            };
            state.containers.insert(saved.id.clone(), saved.clone());
            self.store.save(&state)?;
        }
        let interface = self.inner.lock().interface(&saved);
        let queue = intact_or_anew(&interface, queue, netns)?;
        let version = {
            let mut inner = self.inner.lock();
            let entry = Entry::attached(saved.clone(), queue);
            inner.containers.insert(saved.id.clone(), entry);
            self.publish(&mut inner)
        };
        self.dataplane
            .wait(version, PATIENCE)
            .map_err(|e| Failure::new(ErrorCode::Dataplane, e.to_string()))?;
        Ok(attachment(&self.inner.lock(), &saved))
    }

    /// Lets a container have more than it was attached with. When the dataplane does not answer,
    /// it will have it in force as soon as it is back, as all that is saved.
    pub fn extend(&self, id: &AttachmentId, more: Extension) -> Result<(), Failure> {
        let _one_at_a_time = self.operations.lock();
        let (mut state, saved) = {
            let inner = self.inner.lock();
            let Some(entry) = inner.containers.get(id) else {
                return Err(Failure::new(ErrorCode::Unknown, format!("{id} is not attached")));
            };
            let mut saved = entry.saved.clone();
            saved.terms = Arc::new(extended(&saved.terms, more));
            terms::check(&saved)?;
            terms::check_ports(&inner, &saved)?;
            (inner.state(), saved)
        };
        state.containers.insert(id.clone(), saved.clone());
        self.store.save(&state)?;
        let version = {
            let mut inner = self.inner.lock();
            if let Some(entry) = inner.containers.get_mut(id) {
                entry.saved = saved;
            }
            self.publish(&mut inner)
        };
        self.dataplane
            .wait(version, PATIENCE)
            .map_err(|e| Failure::new(ErrorCode::Dataplane, e.to_string()))?;
        info!(container = %id, "extended");
        Ok(())
    }

    /// Removes an interface and frees its address. Success when there is none.
    pub fn del(&self, id: &AttachmentId) -> Result<(), Failure> {
        let _one_at_a_time = self.operations.lock();
        for saved in self.remove(std::slice::from_ref(id))? {
            info!(container = %id, address = %saved.address, "detached");
        }
        Ok(())
    }

    /// Does that for somebody who has the lock of operations, with all of them at once. Returns those
    /// that there were; when the state cannot be written, all of them stay.
    pub(super) fn remove(&self, ids: &[AttachmentId]) -> Result<Vec<Saved>, Failure> {
        let mut state = self.inner.lock().state();
        let gone: Vec<Saved> = ids.iter().filter_map(|id| state.containers.remove(id)).collect();
        if gone.is_empty() {
            return Ok(gone);
        }
        self.store.save(&state)?;
        let version = {
            let mut inner = self.inner.lock();
            for saved in &gone {
                inner.containers.remove(&saved.id);
            }
            self.publish(&mut inner)
        };
        // A dataplane that is away learns it when it comes back.
        if self.dataplane.connected()
            && let Err(e) = self.dataplane.wait(version, PATIENCE)
        {
            warn!(containers = gone.len(), "{e}");
        }
        for saved in &gone {
            remove_interface(saved);
        }
        Ok(gone)
    }
}

pub(super) fn seconds_since_1970() -> u64 {
    // A clock that is before 1970 is not set.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether its interface is lost, and its namespace not to be found at its path.
fn has_vanished(entry: &Entry) -> bool {
    entry.is_lost() && netns::is_elsewhere(entry.saved.netns_path.as_ref(), entry.saved.netns_inode)
}

/// The terms with what is not among them yet.
fn extended(terms: &Terms, more: Extension) -> Terms {
    let Extension { mappings, net_out, bandwidth } = more;
    let mut terms = terms.clone();
    terms.bandwidth = bandwidth.unwrap_or(terms.bandwidth);
    for mapping in mappings {
        if !terms.mappings.contains(&mapping) {
            terms.mappings.push(mapping);
        }
    }
    for rule in net_out {
        if !terms.net_out.contains(&rule) {
            terms.net_out.push(rule);
        }
    }
    terms
}

fn check_wish(wish: &Attach) -> Result<(), Failure> {
    let Attach { id, network, netns_path, app, kind, wishes, .. } = wish;
    let wrong = |message: String| Err(Failure::new(ErrorCode::Invalid, message));
    if !is_container_id(&id.container) {
        let rule = "1 to 128 letters, digits, `_`, `.` and `-`, the first one a letter or digit";
        return wrong(format!("`{}` is not a container id: {rule}", id.container));
    }
    if netns_path.is_empty() || netns_path.len() > 4095 {
        return wrong("the path of the network namespace is empty or too long".into());
    }
    if app.as_ref().is_some_and(|app| app.is_empty() || app.len() > 256) {
        return wrong("the app's id is empty or longer than 256 bytes".into());
    }
    if network.len() > 255 {
        return wrong("the name of the network is longer than 255 bytes".into());
    }
    if let Some(mtu) = wishes.mtu.filter(|mtu| *mtu < MIN_MTU) {
        return wrong(format!("an MTU of {mtu} bytes is less than {MIN_MTU}"));
    }
    match (wishes.mac, kind) {
        (Some(_), AttachKind::Tun) => {
            return wrong(
                "a TUN has no MAC address, so none can be asked for; attach it by veth".into(),
            );
        }
        (Some(mac), AttachKind::Veth) if mac[0] & 1 != 0 || mac == [0; 6] => {
            return wrong("the MAC address is not that of a single station".into());
        }
        _ => {}
    }
    Ok(())
}

/// The address that a container gets: the `wanted` one, if there is such.
fn free_address(inner: &Inner, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, Failure> {
    let subnet = inner.cell.subnet;
    if let Some(wanted) = wanted {
        let range = ipam::range(subnet);
        if range.is_none_or(|(first, last)| !(first..=last).contains(&wanted)) {
            let range = range.map_or_else(
                || "none".to_owned(),
                |(first, last)| format!("those from {first} to {last}"),
            );
            let message = format!(
                "the address {wanted} is not one for containers of this cell, which are {range}"
            );
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        let holder = inner.containers.values().find(|entry| entry.saved.address == wanted);
        return holder.map_or(Ok(wanted), |holder| {
            let message = format!("the address {wanted} is that of {} already", holder.saved.id);
            Err(Failure::new(ErrorCode::NoAddress, message))
        });
    }
    let used: std::collections::HashSet<_> =
        inner.containers.values().map(|entry| entry.saved.address).collect();
    ipam::next_free(subnet, inner.last_address, |address| used.contains(&address)).ok_or_else(
        || {
            let message = match ipam::capacity(subnet) {
                0 => format!(
                    "the cell's subnet {subnet} has no room for containers; a cell with a single \
                     address runs none"
                ),
                all => format!(
                    "all {all} addresses of the cell's subnet {subnet} are taken; remove \
                     containers, or give the cell a larger subnet"
                ),
            };
            Failure::new(ErrorCode::NoAddress, message)
        },
    )
}

/// The queue of an interface that is as it should be, repaired or made anew if it is not.
fn intact_or_anew(
    interface: &Interface,
    queue: Option<Arc<OwnedFd>>,
    netns: BorrowedFd<'_>,
) -> Result<Arc<OwnedFd>, Failure> {
    match queue {
        Some(queue) if interface.is_of(&queue, netns)? => {
            if interface.check(netns, true).is_err() {
                interface.set_up(netns)?;
            }
            Ok(queue)
        }
        _ => Ok(Arc::new(interface.make(netns)?)),
    }
}

/// Removes a device as far as it can still be reached, so that it is gone at once, whoever still
/// holds its queue. Failures matter to nobody but the log: the device goes with its last holder or
/// with its namespace.
fn remove_interface(saved: &Saved) {
    // Without a namespace the interface has vanished with it.
    let netns = open_namespace(saved).ok();
    let netns = netns.as_ref().map(AsFd::as_fd);
    let removed = attach::remove(saved.kind, netns, &saved.id.ifname, saved.address);
    if let Err(e) = removed {
        warn!(container = %saved.id, "cannot remove its interface: {e}");
    }
}

/// What the client is told.
pub(super) fn attachment(inner: &Inner, saved: &Saved) -> Attachment {
    let interface = inner.interface(saved);
    Attachment {
        id: saved.id.clone(),
        address: saved.address,
        mtu: interface.mtu,
        mac: interface.container_mac(),
        host: interface.host_end(),
        routes: vec![ipnet::Ipv4Net::default()],
        port: desired::port(inner.cell.subnet, saved.address),
        name_servers: inner
            .network
            .outside
            .as_ref()
            .map_or_else(Vec::new, |o| o.dns_servers.clone()),
    }
}
