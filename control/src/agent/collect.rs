//! Removing containers that have ended without a word.
//!
//! Some runtimes call no DEL, and others are killed before they do. A container has ended when its
//! interface is gone and its network namespace is not at its path any more. Neither is enough by
//! itself: an interface may be lost while its container lives, and is made anew; a path may be
//! hidden from the agent, or be that of a process which has left the namespace to others. The
//! agent opens no namespace to find out, as that would keep it alive.
//!
//! An interface is gone when its descriptor says so, or when nobody has one: the agent has not, and
//! a dataplane was asked. The cell's end of a veth lives without descriptors as long as the
//! namespace does, so it must be gone, too.

use std::time::Instant;

use sarcenet_agent_api::AttachmentId;
use tracing::{info, warn};

use super::{Agent, Entry};
use crate::attach::{AttachError, Interface};
use crate::netns;
use crate::state::Saved;

impl Agent {
    /// Looks which containers have ended, `now`, and removes those that had ended already
    /// `collect_after` ago: a runtime has so long for its own DEL. Called again and again.
    pub fn collect(&self, now: Instant) {
        self.note_ended(now);
        if self.overdue(now).is_empty() {
            return;
        }
        let _one_at_a_time = self.operations.lock();
        // Another container may have come by the same name meanwhile.
        self.note_ended(now);
        let overdue = self.overdue(now);
        let collected = self.remove(&overdue);
        let mut inner = self.inner.lock();
        match collected {
            Ok(collected) => {
                inner.collector_problem = None;
                inner.collected += collected.len() as u64;
                for Saved { id, address, netns_path, .. } in collected {
                    info!(container = %id, %address, netns_path, "collected: it had ended without a DEL");
                }
            }
            Err(failure) => {
                let problem = format!("containers that have ended cannot be removed: {failure}");
                if inner.collector_problem.as_ref() != Some(&problem) {
                    warn!("{problem}");
                }
                inner.collector_problem = Some(problem);
            }
        }
    }

    /// Those that have ended so long ago that they are to be removed.
    fn overdue(&self, now: Instant) -> Vec<AttachmentId> {
        let inner = self.inner.lock();
        let Some(grace) = inner.network.collect_after else { return Vec::new() };
        let overdue = inner.containers.values().filter(|entry| {
            entry.ended.is_some_and(|ended| now.saturating_duration_since(ended) >= grace)
        });
        overdue.map(|entry| entry.saved.id.clone()).collect()
    }

    /// Notes which containers have ended since, and which are back.
    fn note_ended(&self, now: Instant) {
        let lost: Vec<(Saved, Interface)> = {
            let mut inner = self.inner.lock();
            for entry in inner.containers.values_mut().filter(|entry| !is_lost(entry)) {
                entry.ended = None;
            }
            let lost = inner.containers.values().filter(|entry| is_lost(entry));
            lost.map(|entry| (entry.saved.clone(), inner.interface(&entry.saved))).collect()
        };
        for (saved, interface) in lost {
            let ended = has_ended(&saved, &interface).unwrap_or_else(|e| {
                // What cannot be looked at may live.
                warn!(container = %saved.id, "cannot see whether it has ended: {e}");
                false
            });
            let mut inner = self.inner.lock();
            let Some(entry) = inner.containers.get_mut(&saved.id) else { continue };
            if ended && entry.saved == saved && is_lost(entry) {
                entry.ended.get_or_insert(now);
            } else {
                entry.ended = None;
            }
        }
    }
}

/// Whether nobody has its interface's descriptor, or only one of an interface that is gone.
fn is_lost(entry: &Entry) -> bool {
    entry.sought && entry.is_lost()
}

/// Whether a container without a descriptor has ended.
fn has_ended(saved: &Saved, interface: &Interface) -> Result<bool, AttachError> {
    let elsewhere = netns::is_elsewhere(saved.netns_path.as_ref(), saved.netns_inode);
    Ok(elsewhere && !interface.is_seen_here()?)
}
