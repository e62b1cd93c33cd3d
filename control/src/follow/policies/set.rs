//! The policies of a deployment, as far as they are known here.

use std::collections::{BTreeSet, HashMap};

use sarcenet_agent_api::{AppInfo, Policy, PortRange, Protocol};
use sarcenet_server::policy::{self, TagNumber, TaggedPolicy};
use serde::{Serialize, Serializer};

use super::answer::{self, List};
use crate::config::Apps;

/// Policies in which every app has one tag of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    set: BTreeSet<TaggedPolicy>,
    left_out: usize,
}

/// Why policies cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoliciesError {
    /// An app with two tags.
    #[error("app {app} has the tags {first:04X} and {second:04X}")]
    TwoTags {
        /// The app.
        app: String,
        /// One tag.
        first: u32,
        /// The other one.
        second: u32,
    },
    /// A tag of two apps: what is allowed to one would be to the other.
    #[error("tag {tag:04X} belongs to app {first} and to app {second}")]
    TwoApps {
        /// The tag.
        tag: u32,
        /// One app.
        first: String,
        /// The other one.
        second: String,
    },
    /// A change of what is not known.
    #[error("it removes a policy that is not there: {0}")]
    NotThere(String),
    /// A change that has been made already.
    #[error("it adds a policy that is there: {0}")]
    There(String),
}

impl Policies {
    /// Those of a list. One that comes twice counts once.
    pub fn new(list: List) -> Result<Self, PoliciesError> {
        let List { policies, left_out } = list;
        let policies = Self { set: policies.into_iter().collect(), left_out };
        policies.check()?;
        Ok(policies)
    }

    /// What they become by a change.
    pub fn changed(&self, added: List, removed: &List) -> Result<Self, PoliciesError> {
        let mut next = self.clone();
        for policy in &removed.policies {
            if !next.set.remove(policy) {
                return Err(PoliciesError::NotThere(shown(policy)));
            }
        }
        for policy in added.policies {
            if let Some(there) = next.set.replace(policy) {
                return Err(PoliciesError::There(shown(&there)));
            }
        }
        next.left_out = (next.left_out + added.left_out).saturating_sub(removed.left_out);
        next.check()?;
        Ok(next)
    }

    fn check(&self) -> Result<(), PoliciesError> {
        let mut tags: HashMap<&str, TagNumber> = HashMap::new();
        let mut apps: HashMap<TagNumber, &str> = HashMap::new();
        for (app, tag) in self.ends() {
            if let Some(other) = tags.insert(app, tag).filter(|other| *other != tag) {
                let app = app.to_owned();
                return Err(PoliciesError::TwoTags { app, first: other.0, second: tag.0 });
            }
            if let Some(other) = apps.insert(tag, app).filter(|other| *other != app) {
                let (first, second) = (other.to_owned(), app.to_owned());
                return Err(PoliciesError::TwoApps { tag: tag.0, first, second });
            }
        }
        Ok(())
    }

    /// Apps with their tags, once for each policy that they are an end of.
    fn ends(&self) -> impl Iterator<Item = (&str, TagNumber)> {
        self.set.iter().flat_map(|TaggedPolicy { policy, source_tag, destination_tag }| {
            [(&*policy.source, *source_tag), (&*policy.destination, *destination_tag)]
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// How many the server has beside them that cannot be enforced.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The apps that they name.
    pub fn apps(&self) -> Apps {
        let app = |(id, tag): (&str, TagNumber)| AppInfo { id: id.to_owned(), tag: tag.0 as u16 };
        self.ends().map(app).collect()
    }

    /// What they say, in order.
    pub fn rules(&self) -> Vec<Policy> {
        let rule = |TaggedPolicy { policy, .. }: &TaggedPolicy| Policy {
            from: policy.source.clone(),
            to: policy.destination.clone(),
            protocol: match policy.protocol {
                policy::Protocol::Tcp => Protocol::Tcp,
                policy::Protocol::Udp => Protocol::Udp,
            },
            ports: PortRange { first: policy.first_port as u16, last: policy.last_port as u16 },
        };
        self.set.iter().map(rule).collect()
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        answer::written(&self.set, serializer)
    }
}

fn shown(tagged: &TaggedPolicy) -> String {
    let policy::Policy { source, destination, protocol, first_port, last_port } = &tagged.policy;
    format!("{source} to {destination} {protocol} {first_port}-{last_port}")
}
