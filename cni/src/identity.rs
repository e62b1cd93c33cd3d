//! Whose a container is, from what its runtime says of it.
//!
//! Cloud Foundry says it in `metadata`. Other runtimes pass labels, annotations or `CNI_ARGS`, in
//! which names are looked for: those that `identity` of the configuration lists, else the usual
//! ones.

use std::collections::BTreeMap;

use sarcenet_agent_api::Metadata;
use serde::Deserialize;

/// Which names stand for what.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Identity {
    app: Option<Names>,
    space: Option<Names>,
    org: Option<Names>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

/// Names and values that a runtime passes, by what they are called there.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Labels {
    Map(BTreeMap<String, String>),
    /// The convention for labels.
    List(Vec<Label>),
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Label {
    key: String,
    value: String,
}

impl Default for Labels {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Labels {
    fn get(&self, name: &str) -> Option<&str> {
        match self {
            Self::Map(map) => map.get(name).map(String::as_str),
            Self::List(list) => {
                list.iter().find(|label| label.key == name).map(|label| label.value.as_str())
            }
        }
    }
}

/// What is said of a container beside `metadata`, what counts first in front.
#[derive(Debug)]
pub(crate) struct Said<'a> {
    /// `args.cni.labels`.
    pub(crate) labels: &'a Labels,
    /// The pod's annotations.
    pub(crate) annotations: &'a BTreeMap<String, String>,
    /// `CNI_ARGS`.
    pub(crate) args: &'a BTreeMap<String, String>,
}

impl Identity {
    /// `metadata` with what it lacks of app, space and organization, as far as that is said elsewhere.
    pub(crate) fn complete(&self, metadata: Metadata, said: &Said<'_>) -> Metadata {
        let find = |names: Option<&Names>, usual: &[&str]| {
            let look = |name: &str| said.get(name).map(ToOwned::to_owned);
            match names {
                None => usual.iter().copied().find_map(look),
                Some(Names::One(name)) => look(name),
                Some(Names::Several(names)) => names.iter().map(String::as_str).find_map(look),
            }
        };
        let Metadata { policy_group_id, space_id, org_id, .. } = metadata;
        Metadata {
            policy_group_id: policy_group_id
                .or_else(|| find(self.app.as_ref(), &["app", "sarcenet/app", "SARCENET_APP"])),
            space_id: space_id.or_else(|| {
                find(self.space.as_ref(), &["space", "sarcenet/space", "SARCENET_SPACE"])
            }),
            org_id: org_id
                .or_else(|| find(self.org.as_ref(), &["org", "sarcenet/org", "SARCENET_ORG"])),
            ..metadata
        }
    }
}

impl Said<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.labels.get(name);
        let found = found.or_else(|| self.annotations.get(name).map(String::as_str));
        let found = found.or_else(|| self.args.get(name).map(String::as_str));
        found.filter(|value| !value.is_empty())
    }
}
