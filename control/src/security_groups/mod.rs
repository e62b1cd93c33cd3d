//! Security groups: which container may reach what outside (contract sections 7.6 and 9.5).
//!
//! A group has rules, and applies to running or staging containers of some spaces, or of all
//! (a default). A container has the rules of all groups that apply: the defaults first, then those
//! of its space, each in the order of the source; a default is not added again through its space.

mod rule;

use std::collections::BTreeSet;

use sarcenet_agent_api::Metadata;

pub use rule::{EgressSpec, Field, RuleError, RuleText, network};

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityGroup {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: Vec<EgressSpec>,
    /// Spaces whose running containers it applies to.
    pub spaces: BTreeSet<String>,
    /// Spaces whose staging containers it applies to.
    pub staging_spaces: BTreeSet<String>,
    /// Whether it applies to all running containers.
    pub running_default: bool,
    /// Whether it applies to all staging containers.
    pub staging_default: bool,
}

/// What a container is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It runs an app or a task.
    Running,
    /// It builds an app.
    Staging,
}

impl Phase {
    /// The phase that `container_workload` names. A container of which nothing is said runs; one of
    /// a kind that is not known has no phase, and no group applies to it.
    pub fn of(metadata: &Metadata) -> Option<Self> {
        match metadata.container_workload.as_deref().unwrap_or_default() {
            "" | "app" | "task" => Some(Self::Running),
            "staging" => Some(Self::Staging),
            _ => None,
        }
    }
}

impl SecurityGroup {
    fn is_default(&self, phase: Phase) -> bool {
        match phase {
            Phase::Running => self.running_default,
            Phase::Staging => self.staging_default,
        }
    }

    fn is_bound(&self, phase: Phase, space: &str) -> bool {
        match phase {
            Phase::Running => self.spaces.contains(space),
            Phase::Staging => self.staging_spaces.contains(space),
        }
    }
}

/// The groups that apply to a container in that phase, in order. Without a space only the defaults
/// do.
pub fn applying<'a>(
    groups: &'a [SecurityGroup],
    phase: Phase,
    space: Option<&str>,
) -> impl Iterator<Item = &'a SecurityGroup> {
    let defaults = groups.iter().filter(move |group| group.is_default(phase));
    let bound = groups.iter().filter(move |group| {
        !group.is_default(phase) && space.is_some_and(|space| group.is_bound(phase, space))
    });
    defaults.chain(bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(
        name: &str,
        spaces: &[&str],
        staging: &[&str],
        defaults: (bool, bool),
    ) -> SecurityGroup {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        SecurityGroup {
            name: name.into(),
            rules: Vec::new(),
            spaces: set(spaces),
            staging_spaces: set(staging),
            running_default: defaults.0,
            staging_default: defaults.1,
        }
    }

    #[test]
    fn defaults_come_first_and_only_once() {
        let groups = [
            group("of-s", &["s"], &["t"], (false, false)),
            group("public", &["s"], &[], (true, true)),
            group("run", &[], &["s"], (true, false)),
            group("stage", &["s"], &[], (false, true)),
        ];
        let names = |phase, space| -> Vec<_> {
            applying(&groups, phase, space).map(|group| group.name.as_str()).collect()
        };
        assert_eq!(names(Phase::Running, Some("s")), ["public", "run", "of-s", "stage"]);
        assert_eq!(names(Phase::Staging, Some("s")), ["public", "stage", "run"]);
        assert_eq!(names(Phase::Staging, Some("t")), ["public", "stage", "of-s"]);
        assert_eq!(names(Phase::Running, None), ["public", "run"]);
        assert_eq!(names(Phase::Running, Some("other")), ["public", "run"]);
    }

    #[test]
    fn workloads_have_phases() {
        let of = |workload: Option<&str>| {
            let container_workload = workload.map(str::to_owned);
            Phase::of(&Metadata { container_workload, ..Metadata::default() })
        };
        assert_eq!(of(Some("app")), Some(Phase::Running));
        assert_eq!(of(Some("task")), Some(Phase::Running));
        assert_eq!(of(Some("staging")), Some(Phase::Staging));
        assert_eq!((of(None), of(Some(""))), (Some(Phase::Running), Some(Phase::Running)));
        assert_eq!(of(Some("cron")), None);
    }
}
