//! Flows with NAT: the port of the cell that each gets, and its second entry in the index.
//!
//! The index leads to a translated flow by both of its views, under two entries with the same
//! place. They come and go in an order:
//!
//! * A flow is made under the locks of both views, when neither is there. The entry of the outer
//!   view is published first, that of the inner view last.
//! * Whoever takes the entry of the inner view out removes the flow, and then takes out the other
//!   one. So of several who try one succeeds, as for other flows, and it finds both entries.
//! * The place is given back after both are out. A reader that finds the flow by either entry held
//!   a guard before, and keeps the place from being used again.
//!
//! So a reader may find a flow by its outer view a moment before and after it is in the table by
//! its inner view; what it finds is the whole flow, and to remove it has no effect then.
//!
//! All outer views have one address. When it changes, no more translated flows are made, then all
//! are removed, and then it is another one. A flow's remover reads the address before it takes the
//! inner entry out, thus before that walk has passed the flow, thus while it is the old one.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, fence};

use crossbeam_epoch::Guard;
use parking_lot::Mutex;
use sarcenet_dataplane_api::{PortId, PortRange};

use super::store::Store;
use super::{Flow, FlowKey, FlowTable, Hit, InsertError, NewFlow};
use crate::nat::{Candidates, Side, Translation, has_ports, outer_view};
use crate::packet::Via;

/// What is known of translated flows beside their entries.
pub(super) struct Translated {
    /// Flows with source NAT of every container, by its port.
    counts: Box<[AtomicU32]>,
    /// How many of them a container may have; 0 for any number.
    limit: AtomicU32,
    /// Held while the cell's address or range changes.
    change: Mutex<()>,
}

impl Default for Translated {
    fn default() -> Self {
        Self {
            counts: (0..=u16::MAX).map(|_| AtomicU32::default()).collect(),
            limit: AtomicU32::default(),
            change: Mutex::default(),
        }
    }
}

impl Translated {
    /// The counter that a flow with source NAT from this door has its part in.
    fn count(&self, from: Via) -> Option<&AtomicU32> {
        match from {
            Via::Container(port) => self.counts.get(usize::from(port.0)),
            Via::Host | Via::Tunnel(_) => None,
        }
    }

    /// Counts one more. False when that is too many.
    fn charge(&self, from: Via) -> bool {
        let Some(count) = self.count(from) else { return true };
        let limit = self.limit.load(Relaxed);
        let before = count.fetch_add(1, Relaxed);
        let fits = limit == 0 || before < limit;
        if !fits {
            count.fetch_sub(1, Relaxed);
        }
        fits
    }

    fn discharge(&self, from: Via) {
        if let Some(count) = self.count(from) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

/// What new flows are translated to: the cell's address, and its ports for source NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Offer {
    address: Ipv4Addr,
    ports: Option<PortRange>,
}

impl Offer {
    /// In one word, so that it changes in one step; 0 is no offer. An inverted range is none.
    fn encode(self) -> u64 {
        let PortRange { first, last } = self.ports.unwrap_or(PortRange { first: 1, last: 0 });
        u64::from(self.address.to_bits()) << 32 | u64::from(first) << 16 | u64::from(last)
    }

    fn decode(word: u64) -> Option<Self> {
        let address = Ipv4Addr::from((word >> 32) as u32);
        let ports = PortRange { first: (word >> 16) as u16, last: word as u16 };
        (!address.is_unspecified()).then_some(Self {
            address,
            ports: Some(ports).filter(|ports| ports.first <= ports.last),
        })
    }

    /// Whether a flow with this outer view could be one of this offer.
    fn covers(self, protocol: u8, side: Side, port: u16) -> bool {
        match (side, self.ports) {
            (Side::Destination, _) => true,
            (Side::Source, Some(ports)) => !has_ports(protocol) || ports.contains(port),
            (Side::Source, None) => false,
        }
    }
}

impl Store {
    /// The address of all outer views.
    pub(super) fn cell(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.slab.cell().load(Acquire) as u32)
    }

    fn offer(&self) -> Option<Offer> {
        Offer::decode(self.slab.offer().load(Acquire))
    }

    /// Hash of a flow's outer view, if it has one.
    pub(super) fn outer_hash(&self, flow: &Flow, key: &FlowKey) -> Option<u64> {
        let (side, port) = flow.translated()?;
        Some(outer_view(key, side, self.cell(), port).hash())
    }

    /// No longer counts a flow that is removed.
    pub(super) fn discharge(&self, flow: &Flow) {
        if matches!(flow.translated(), Some((Side::Source, _))) {
            self.translated.discharge(flow.from());
        }
    }

    /// Makes a flow with source NAT, unless the conversation is there.
    pub(super) fn insert_source<'g>(
        self: &'g Arc<Self>,
        new: &NewFlow,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, InsertError> {
        if let Some(hit) = self.find(&new.key, new.key.hash(), guard) {
            return Ok(hit);
        }
        let offer = self.offer().ok_or(InsertError::NatExhausted)?;
        let ports = offer.ports.ok_or(InsertError::NatExhausted)?;
        for port in Candidates::new(&new.key, ports) {
            if let Some(hit) = self.try_port(new, offer, (Side::Source, port), now, guard)? {
                return Ok(hit);
            }
        }
        Err(InsertError::NatExhausted)
    }

    /// Makes a flow with destination NAT, unless the conversation is there. Another one with one
    /// of its views makes way when it has finished, as one between the same ends would.
    pub(super) fn insert_destination<'g>(
        self: &'g Arc<Self>,
        new: &NewFlow,
        cell_port: u16,
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, InsertError> {
        let offer = self.offer().ok_or(InsertError::NatExhausted)?;
        let end = (Side::Destination, cell_port);
        let is_it = |hit: &Hit<'_>| hit.flow.translated() == Some(end) && hit.flow.key() == new.key;
        for view in [new.key, outer_view(&new.key, end.0, offer.address, end.1)] {
            match self.find(&view, view.hash(), guard) {
                Some(hit) if is_it(&hit) => return Ok(hit),
                Some(hit) if hit.flow.has_finished() => {
                    self.remove(hit.flow, guard);
                }
                Some(_) => return Err(InsertError::NatExhausted),
                None => {}
            }
        }
        let made = self.try_port(new, offer, end, now, guard)?;
        made.filter(is_it).ok_or(InsertError::NatExhausted)
    }

    /// Makes a translated flow if its outer view is free; the one that is there if its inner view
    /// is not.
    fn try_port<'g>(
        self: &'g Arc<Self>,
        new: &NewFlow,
        offer: Offer,
        (side, port): (Side, u16),
        now: u32,
        guard: &'g Guard,
    ) -> Result<Option<Hit<'g>>, InsertError> {
        let outer = outer_view(&new.key, side, offer.address, port);
        let (inner_hash, outer_hash) = (new.key.hash(), outer.hash());
        // Most ports that are in use are seen to be so without a lock.
        if self.find(&outer, outer_hash, guard).is_some() {
            return Ok(None);
        }
        let _stripes = self.index.lock_both(inner_hash, outer_hash);
        if self.offer() != Some(offer) {
            // It has just changed. The beginner's next packet gets the new one.
            return Err(InsertError::NatExhausted);
        }
        if let Some(hit) = self.find(&new.key, inner_hash, guard) {
            return Ok(Some(hit));
        }
        if self.find(&outer, outer_hash, guard).is_some() {
            return Ok(None);
        }
        let charged = side == Side::Source;
        if charged && !self.translated.charge(new.from) {
            return Err(InsertError::NatExhausted);
        }
        let made = self.make(new, port, [outer_hash, inner_hash], now, guard);
        if charged && made.is_err() {
            self.translated.discharge(new.from);
        }
        made.map(Some)
    }

    /// Makes a flow and publishes it under both hashes, that of the outer view first. The caller
    /// holds the locks of both.
    fn make<'g>(
        self: &'g Arc<Self>,
        new: &NewFlow,
        port: u16,
        [outer, inner]: [u64; 2],
        now: u32,
        guard: &'g Guard,
    ) -> Result<Hit<'g>, InsertError> {
        let place = self.reserve(new.from, inner, now, guard)?;
        let Some(flow) = self.slab.get(place) else { return Err(InsertError::Full) };
        self.fill(flow, place, new, port, now);
        if self.publish(outer, place, now, guard) {
            if self.publish(inner, place, now, guard) {
                self.created.fetch_add(1, Relaxed);
                return Ok(Hit { flow, forward: true, created: true });
            }
            self.index.remove(outer, place);
        }
        self.end(flow, place, guard);
        Err(InsertError::Full)
    }

    /// Puts a flow that the dataplane before has left into the index. False when one of its views
    /// is there already, or there is no room.
    pub(super) fn adopt_views(
        &self,
        flow: &Flow,
        key: &FlowKey,
        place: u32,
        guard: &Guard,
    ) -> bool {
        let inner = key.hash();
        if self.find(key, inner, guard).is_some() {
            return false;
        }
        let Some((side, port)) = flow.translated() else {
            return self.index.insert(inner, place).is_ok();
        };
        let view = outer_view(key, side, self.cell(), port);
        let outer = view.hash();
        if self.cell().is_unspecified()
            || self.find(&view, outer, guard).is_some()
            || self.index.insert(outer, place).is_err()
        {
            return false;
        }
        if self.index.insert(inner, place).is_err() {
            self.index.remove(outer, place);
            return false;
        }
        if side == Side::Source
            && let Some(count) = self.translated.count(flow.from())
        {
            count.fetch_add(1, Relaxed);
        }
        true
    }

    /// Refuses an offer that contradicts the address of the flows that were found with it.
    pub(super) fn check_offer(&self) {
        if self.offer().is_none_or(|offer| offer.address != self.cell()) {
            self.slab.offer().store(0, Relaxed);
        }
    }

    /// Changes the offer between two insertions: afterwards every flow of the old one can be found.
    fn replace_offer(&self, word: u64) {
        let _stripes = self.index.lock_all();
        self.slab.offer().store(word, Release);
    }
}

impl FlowTable {
    /// Sets the address of the cell that translated conversations appear with, and its ports for
    /// source NAT; the unspecified address for none. Conversations that appear with another
    /// address, or have a port for source NAT outside the range, are removed. Returns how many.
    ///
    /// Walks the whole table when something changes: for the control thread.
    pub fn set_cell(&self, address: Ipv4Addr, ports: Option<PortRange>) -> usize {
        let store = &self.store;
        let _alone = store.translated.change.lock();
        let offer = Offer::decode(Offer { address, ports }.encode());
        if store.offer() == offer {
            return 0;
        }
        let word = offer.map_or(0, Offer::encode);
        let moves = address != store.cell();
        store.replace_offer(if moves { 0 } else { word });
        let removed = self.purge(|flow| {
            flow.translated().is_some_and(|(side, port)| {
                moves || offer.is_none_or(|offer| !offer.covers(flow.key().protocol, side, port))
            })
        });
        if moves {
            // After every removal that another thread has begun meanwhile: see this module.
            fence(SeqCst);
            store.slab.cell().store(u64::from(address.to_bits()), Release);
            store.replace_offer(word);
        }
        removed
    }

    /// Sets how many conversations with source NAT a container may have at a time; 0 for any
    /// number. One that has more keeps them.
    pub fn set_source_nat_limit(&self, per_container: u32) {
        self.store.translated.limit.store(per_container, Relaxed);
    }

    /// How many conversations with source NAT a container has.
    pub fn source_nat_count(&self, container: PortId) -> u32 {
        self.store.translated.counts[usize::from(container.0)].load(Relaxed)
    }

    /// What is to be written into packets of a conversation that run as its first one did
    /// (`forward`), or the other way; none when it is not translated. For an ICMP error that
    /// quotes a packet of the conversation it is what the error needs, if `forward` is the
    /// direction of the error.
    #[inline]
    pub fn translation(&self, flow: &Flow, forward: bool) -> Option<Translation> {
        let (side, port) = flow.translated()?;
        let key = flow.key();
        let cell = self.store.cell();
        let (side, address, port) = match (side, forward) {
            (Side::Source, true) | (Side::Destination, false) => (Side::Source, cell, port),
            (Side::Source, false) => (Side::Destination, key.source, key.source_port),
            (Side::Destination, true) => (Side::Destination, key.destination, key.destination_port),
        };
        Some(Translation { side, address, port })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
