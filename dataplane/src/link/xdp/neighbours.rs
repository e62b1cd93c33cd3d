//! The way to each peer: route and neighbour, asked from the kernel by netlink and followed as
//! they change (rtnetlink(7)).
//!
//! One thread asks and publishes a table, which workers read without a lock. The kernel resolves
//! addresses itself, as for its own traffic: it is told that a neighbour is used (`NTF_USE`), and
//! again whenever what it knows has become old, because it sees nothing of what we send.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_epoch::Guard;
use futures_util::future::{Either, select};
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use parking_lot::Mutex;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::Notify;

use super::netlink::{Gateway, gateway_of, into_io, resolved};
use super::outer::Hop;
use crate::table::{Published, Retired};

/// How often what is not resolved is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often everything is looked at again, announced or not: announcements can be lost.
const REFRESH: Duration = Duration::from_secs(30);

/// Most peers that are followed. A cell has as many as the overlay has subnets.
const MAX_PEERS: usize = 1 << 16;

/// The way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By this hop.
    Known(Hop),
    /// Being looked for.
    Unresolved,
    /// Not by this interface.
    Elsewhere,
}

/// Ways by peer.
pub(super) type Ways = HashMap<Ipv4Addr, Way>;

/// What the thread and the workers share.
#[derive(Default)]
struct Common {
    ways: Published<Ways>,
    retired: Retired,
    wanted: Mutex<BTreeSet<Ipv4Addr>>,
    wake: Notify,
    stop: AtomicBool,
    /// Whether the interface is gone, and with it all there was to follow.
    gone: AtomicBool,
    /// Largest IP packet of the interface, in bytes.
    mtu: AtomicU32,
    /// Name of the interface.
    interface: String,
}

impl Common {
    fn set_gone(&self) {
        if !self.gone.swap(true, Relaxed) {
            tracing::warn!("the uplink's interface {} is gone", self.interface);
        }
    }
}

/// Follows the ways to all peers that were asked for.
pub(super) struct Neighbours {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbours {
    /// Begins to follow, in the namespace of the calling thread, what leaves `local` by the
    /// interface of that name and index.
    ///
    /// # Errors
    /// The kernel gives no netlink socket, or has no such interface.
    pub(super) fn follow(interface: &str, index: u32, local: Ipv4Addr) -> io::Result<Self> {
        let common = Arc::new(Common { interface: interface.to_owned(), ..Common::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
        ])?;
        drop(entered);
        runtime.spawn(connection);
        let mut follower = Follower {
            common: Arc::clone(&common),
            handle,
            index,
            local,
            mac: [0; 6],
            gateways: BTreeMap::new(),
            published: Ways::new(),
        };
        runtime.block_on(follower.look_at_link())?;
        let thread = std::thread::Builder::new()
            .name("neighbours".to_owned())
            .spawn(move || runtime.block_on(follower.run(messages)))?;
        Ok(Self { common, thread: Some(thread) })
    }

    /// The ways as they are now.
    pub(super) fn ways<'g>(&self, guard: &'g Guard) -> Option<&'g Ways> {
        self.common.ways.load(guard)
    }

    /// The way to a peer. One that was never asked for is looked for from now on.
    #[inline]
    pub(super) fn way(&self, ways: Option<&Ways>, peer: Ipv4Addr) -> Way {
        if let Some(&way) = ways.and_then(|ways| ways.get(&peer)) {
            return way;
        }
        self.want(peer);
        Way::Unresolved
    }

    /// Looks for the way to a peer from now on.
    #[cold]
    pub(super) fn want(&self, peer: Ipv4Addr) {
        let mut wanted = self.common.wanted.lock();
        if wanted.len() < MAX_PEERS && wanted.insert(peer) {
            self.common.wake.notify_one();
        }
    }

    /// Looks for the ways to these peers from now on, and to no others.
    pub(super) fn follow_only(&self, peers: impl IntoIterator<Item = Ipv4Addr>) {
        *self.common.wanted.lock() = peers.into_iter().take(MAX_PEERS).collect();
        self.common.wake.notify_one();
    }

    /// Whether it is known of every peer how it is reached.
    pub(super) fn all_known(&self) -> bool {
        let guard = crossbeam_epoch::pin();
        let ways = self.ways(&guard);
        let known =
            |peer| ways.and_then(|ways| ways.get(peer)).is_some_and(|way| *way != Way::Unresolved);
        self.common.wanted.lock().iter().all(known)
    }

    /// Ends to follow; what is known stays.
    #[cfg(test)]
    pub(super) fn freeze(&self) {
        self.common.stop.store(true, Relaxed);
        self.common.wake.notify_one();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            std::thread::yield_now();
        }
    }

    /// Whether the interface is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.common.gone.load(Relaxed)
    }

    /// The interface is gone, as was noticed elsewhere.
    pub(super) fn set_gone(&self) {
        self.common.set_gone();
    }

    /// Largest IP packet of the interface, in bytes.
    pub(super) fn device_mtu(&self) -> usize {
        self.common.mtu.load(Relaxed) as usize
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.common.stop.store(true, Relaxed);
        self.common.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that follows neighbours had panicked");
        }
    }
}

/// What is to be looked at again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Changed {
    link: bool,
    routes: bool,
}

type Announcement = NetlinkMessage<RouteNetlinkMessage>;

struct Follower {
    common: Arc<Common>,
    handle: Handle,
    index: u32,
    local: Ipv4Addr,
    /// Of the interface.
    mac: [u8; 6],
    gateways: BTreeMap<Ipv4Addr, Gateway>,
    published: Ways,
}

impl Follower {
    async fn run<A>(mut self, mut messages: impl Stream<Item = (Announcement, A)> + Unpin) {
        let common = Arc::clone(&self.common);
        let mut wait = RETRY;
        loop {
            let mut changed = Changed::default();
            let asked = pin!(common.wake.notified());
            let news = tokio::time::timeout(wait, select(asked, messages.next())).await;
            let timed_out = news.is_err();
            match news {
                Ok(Either::Right((Some((message, _)), _))) => note(&message, &mut changed),
                Ok(Either::Right((None, _))) => return,
                Ok(Either::Left(_)) | Err(_) => {}
            }
            // One answer to all that has been announced meanwhile.
            while let Some(Some((message, _))) = messages.next().now_or_never() {
                note(&message, &mut changed);
            }
            if common.stop.load(Relaxed) || common.gone.load(Relaxed) {
                return;
            }
            if timed_out && wait == REFRESH {
                changed = Changed { link: true, routes: true };
            }
            match self.look(changed, timed_out).await {
                Ok(true) => wait = REFRESH,
                Ok(false) => wait = RETRY,
                Err(_) if common.gone.load(Relaxed) => return,
                Err(error) => {
                    tracing::warn!("asking the kernel about neighbours: {error}; trying again");
                    wait = RETRY;
                }
            }
        }
    }

    /// Brings everything up to date and publishes it. Returns whether all is resolved.
    async fn look(&mut self, changed: Changed, again: bool) -> io::Result<bool> {
        if changed.link {
            self.look_at_link().await?;
        }
        let wanted = self.common.wanted.lock().clone();
        self.gateways.retain(|peer, _| wanted.contains(peer));
        for &peer in &wanted {
            if changed.routes || !self.gateways.contains_key(&peer) {
                let gateway = self.gateway(peer).await?;
                let before = self.gateways.insert(peer, gateway);
                if before != Some(gateway) {
                    report(peer, gateway);
                }
            }
        }
        let known = self.neighbours().await?;
        let mut ways = Ways::with_capacity(wanted.len());
        let mut to_use = BTreeSet::new();
        let mut all = true;
        for (&peer, gateway) in &self.gateways {
            let way = match *gateway {
                Gateway::Elsewhere(_) => Way::Elsewhere,
                Gateway::Nowhere => Way::Unresolved,
                Gateway::Here(neighbour) => {
                    let found = known.get(&neighbour);
                    // What is new is asked for at once; what stays unknown or has become old, in
                    // turn.
                    let new = self.published.get(&peer) != Some(&Way::Unresolved);
                    let sure = found.is_some_and(|&(_, fresh)| fresh);
                    if !sure && (again || (new && found.is_none())) {
                        to_use.insert(neighbour);
                    }
                    found.map_or(Way::Unresolved, |&(mac, _)| {
                        Way::Known(Hop { source: self.mac, destination: mac })
                    })
                }
            };
            all &= way != Way::Unresolved;
            ways.insert(peer, way);
        }
        if ways != self.published {
            self.published.clone_from(&ways);
            let guard = crossbeam_epoch::pin();
            self.common.ways.replace(Some(ways), &self.common.retired, &guard);
        }
        self.common.retired.clear();
        for neighbour in to_use {
            self.announce_use(neighbour).await;
        }
        Ok(all)
    }

    /// Reads MAC and MTU of the interface.
    async fn look_at_link(&mut self) -> io::Result<()> {
        let links = self.handle.link().get().match_index(self.index).execute();
        match links.try_collect::<Vec<LinkMessage>>().await {
            Ok(links) => {
                for attribute in links.iter().flat_map(|link| &link.attributes) {
                    match attribute {
                        LinkAttribute::Mtu(mtu) => self.common.mtu.store(*mtu, Relaxed),
                        LinkAttribute::Address(address) => {
                            // An interface without addresses of six bytes has none to be set.
                            self.mac = address.as_slice().try_into().unwrap_or_default();
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Err(error) => {
                let error = into_io(error);
                if error.raw_os_error() == Some(libc::ENODEV) {
                    self.common.set_gone();
                }
                Err(error)
            }
        }
    }

    /// Asks which way the kernel would send to a peer.
    async fn gateway(&self, peer: Ipv4Addr) -> io::Result<Gateway> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(peer, 32)
            .source_prefix(self.local, 32)
            .build();
        let answer = self.handle.route().get(question).execute().try_next().await;
        match answer {
            Ok(Some(route)) => Ok(gateway_of(&route, peer, self.index)),
            Ok(None) => Ok(Gateway::Nowhere),
            Err(error) => match into_io(error) {
                e if matches!(
                    e.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                ) =>
                {
                    Ok(Gateway::Nowhere)
                }
                e => Err(e),
            },
        }
    }

    /// Resolved neighbours on the interface, and whether the kernel is sure of them.
    async fn neighbours(&self) -> io::Result<HashMap<Ipv4Addr, ([u8; 6], bool)>> {
        let all = self.handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
        let all = all.try_collect::<Vec<NeighbourMessage>>().await.map_err(into_io)?;
        Ok(all.iter().filter(|n| n.header.ifindex == self.index).filter_map(resolved).collect())
    }

    /// Makes the kernel find a neighbour, or make sure of it.
    async fn announce_use(&self, neighbour: Ipv4Addr) {
        let request = self
            .handle
            .neighbours()
            .add(self.index, IpAddr::V4(neighbour))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            tracing::warn!("having {neighbour} resolved: {}", into_io(error));
        }
    }
}

/// What a message says that has changed. Neighbours are looked at after every message.
fn note(message: &Announcement, changed: &mut Changed) {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return };
    match message {
        RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
            *changed = Changed { link: true, routes: true };
        }
        RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_) => {}
        _ => changed.routes = true,
    }
}

fn report(peer: Ipv4Addr, gateway: Gateway) {
    match gateway {
        Gateway::Here(_) => {}
        Gateway::Elsewhere(index) => tracing::warn!(
            "the route to cell {peer} leaves by interface {index}, not by the uplink: packets to \
             it are dropped until it does"
        ),
        Gateway::Nowhere => {
            tracing::warn!("there is no route to cell {peer}: packets to it are dropped");
        }
    }
}
