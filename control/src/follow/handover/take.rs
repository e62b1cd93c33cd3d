//! The agent's end.

use parking_lot::{Mutex, MutexGuard};
use sarcenet_agent_api::{ErrorCode, FollowProblems, MAX_DOCUMENT, MAX_PART};
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::agent::Failure;
use crate::follow::in_force::{self, Learned};
use crate::follow::saved::Saved;

/// Said as long as nobody asks the policy server for the agent.
const NOBODY: &str =
    "nobody tells the agent what the policy server says; is vxlan-policy-agent running?";

/// Where what the policy server says is handed in.
#[derive(Debug)]
pub struct Inbox {
    learned: Learned,
    runtime: Handle,
    /// Whether something is wrong as long as nobody hands in.
    needed: bool,
    /// Held by the connection that hands in.
    only: Mutex<()>,
}

/// One connection's part of it.
#[derive(Debug)]
pub struct Taking<'a> {
    inbox: &'a Inbox,
    _only: MutexGuard<'a, ()>,
    document: Vec<u8>,
}

impl Inbox {
    /// What is handed in becomes a part of what is `learned`; `runtime` is where it is put in force.
    /// A cell without containers can do without: then it is not `needed`.
    pub fn new(learned: Learned, runtime: Handle, needed: bool) -> Self {
        let inbox = Self { learned, runtime, needed, only: Mutex::default() };
        inbox.is_alone();
        inbox
    }

    /// Nobody hands in.
    fn is_alone(&self) {
        let policies = self.needed.then(|| NOBODY.into());
        self.tell(FollowProblems { policies, ..FollowProblems::default() });
    }

    /// Begins to take, from one at a time.
    pub fn begin(&self) -> Result<Taking<'_>, Failure> {
        let only = self.only.try_lock().ok_or_else(|| {
            let message = "another program tells the agent what the policy server says";
            Failure::new(ErrorCode::Busy, message)
        })?;
        info!("a program beside the agent tells what the policy server says");
        Ok(Taking { inbox: self, _only: only, document: Vec::new() })
    }

    fn tell(&self, problems: FollowProblems) {
        let FollowProblems { policies, groups, routers } = problems.bounded();
        self.learned.policies.send_if_modified(|state| changed(&mut state.problem, policies));
        self.learned.groups.send_if_modified(|state| changed(&mut state.problem, groups));
        self.learned.overlay.send_if_modified(|state| changed(&mut state.problem, routers));
    }

    /// Has it put in force, and waits for that.
    fn put(&self, said: Saved) -> Result<(), Failure> {
        let Saved { policies, generation, groups, outside, overlay, router_tag } = said;
        let Learned {
            policies: policy_state,
            groups: group_state,
            overlay: overlay_state,
            in_force,
        } = &self.learned;
        overlay_state.send_if_modified(|state| {
            let news = overlay.is_some() || router_tag.is_some();
            if news {
                state.terms = overlay.or(state.terms);
                state.router_tag = router_tag.or(state.router_tag);
                state.round += 1;
            }
            news
        });
        // Groups first: between both a container has less than it may have, and not more.
        group_state.send_if_modified(|state| {
            let news = groups.is_some() || outside.is_some();
            if news {
                state.groups = groups.or(state.groups.take());
                state.outside = outside.or(state.outside.take());
                state.round += 1;
            }
            news
        });
        policy_state.send_if_modified(|state| {
            let news = policies.is_some();
            if news {
                (state.policies, state.generation) = (policies, generation);
                // What happened on the way says nothing about how fast changes arrive.
                state.changed_at = None;
                state.round += 1;
            }
            news
        });
        let policies = policy_state.borrow().round;
        let (groups, overlay) = (group_state.borrow().round, overlay_state.borrow().round);
        let in_force = in_force.subscribe();
        let waiting = in_force::until(&in_force, |now| {
            now.policies >= policies && now.groups >= groups && now.overlay >= overlay
        });
        self.runtime.block_on(waiting).map_err(|problem| {
            let message = format!("what the policy server says is not in force: {problem}");
            Failure::new(ErrorCode::Dataplane, message)
        })
    }
}

/// Whether that is something else than before.
fn changed(problem: &mut Option<String>, now: Option<String>) -> bool {
    let news = *problem != now;
    *problem = now;
    news
}

impl Taking<'_> {
    /// Takes a part of a document.
    pub fn part(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() > MAX_PART || self.document.len() + bytes.len() > MAX_DOCUMENT {
            self.document = Vec::new();
            let message = format!(
                "a document of what the policy server says has at most {MAX_DOCUMENT} bytes, in \
                 parts of {MAX_PART}"
            );
            return Err(Failure::new(ErrorCode::Invalid, message));
        }
        self.document.extend_from_slice(bytes);
        Ok(())
    }

    /// Puts the document in force that the parts were of. One that makes no sense changes nothing.
    pub fn end(&mut self, problems: FollowProblems) -> Result<(), Failure> {
        let document = std::mem::take(&mut self.document);
        if !document.is_empty() {
            let said = Saved::read(&document).map_err(|reason| {
                let message = format!("what the policy server says cannot be read: {reason}");
                Failure::new(ErrorCode::Invalid, message)
            })?;
            self.inbox.put(said)?;
        }
        self.inbox.tell(problems);
        Ok(())
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if self.inbox.needed {
            warn!("{NOBODY} Policies and security groups stay as they are");
        }
        self.inbox.is_alone();
    }
}
