//! What a program beside the agent that asks the policy server tells it, and asks it.

use serde::{Deserialize, Serialize};

/// Longest document, in bytes: the largest answers of a policy server for policies and for security
/// groups, and as much again.
pub const MAX_DOCUMENT: usize = 128 << 20;

/// Most bytes of a document in one request.
pub const MAX_PART: usize = 64 << 10;

/// Longest text of a problem, in bytes.
pub const MAX_PROBLEM: usize = 2048;

/// What is wrong now between the program and the policy server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowProblems {
    /// With the policies.
    pub policies: Option<String>,
    /// With the security groups.
    pub groups: Option<String>,
    /// With the tag of routers.
    pub routers: Option<String>,
}

impl FollowProblems {
    /// The same in texts that are not too long.
    #[must_use]
    pub fn bounded(self) -> Self {
        let cut = |text: Option<String>| {
            text.map(|mut text| {
                text.truncate(text.floor_char_boundary(MAX_PROBLEM));
                text
            })
        };
        let Self { policies, groups, routers } = self;
        Self { policies: cut(policies), groups: cut(groups), routers: cut(routers) }
    }
}

/// Whose containers the cell has: what the policy server is asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tenant {
    /// An app.
    App(String),
    /// A space.
    Space(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_problems_are_cut_between_characters() {
        let long = "\u{fc}".repeat(MAX_PROBLEM);
        let problems = FollowProblems {
            policies: Some(format!("x{long}")),
            groups: Some(long),
            routers: None,
        };
        let cut = problems.bounded();
        assert_eq!(cut.policies.unwrap().len(), MAX_PROBLEM - 1);
        assert_eq!(cut.groups.unwrap().len(), MAX_PROBLEM);
    }
}
