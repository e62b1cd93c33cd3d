//! Versions of the specification, and what came with which.

use crate::failure::{Code, Failure};

/// A version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// Oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// For answers to those who do not say theirs.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn read(named: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|version| version.name() == named).ok_or_else(|| {
            let spoken = Self::ALL.map(Self::name).join(", ");
            incompatible(format!("cniVersion is `{named}`; this plugin speaks {spoken}"))
        })
    }

    /// An error unless this version has the command, which came with `first`.
    pub(crate) fn has(self, command: &str, first: Self) -> Result<(), Failure> {
        if self >= first {
            return Ok(());
        }
        let (first, own) = (first.name(), self.name());
        Err(incompatible(format!("{command} came with {first}; cniVersion is `{own}`")))
    }

    /// Whether addresses in results say of which family they are: before 1.0.0.
    pub(crate) fn has_families(self) -> bool {
        self < Self::V1_0_0
    }

    /// Whether interfaces in results have an MTU: since 1.1.0.
    pub(crate) fn has_mtu(self) -> bool {
        self >= Self::V1_1_0
    }
}

fn incompatible(why: String) -> Failure {
    Failure::new(Code::IncompatibleVersion, "incompatible CNI version", why)
}
