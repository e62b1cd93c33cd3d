//! Policies as both versions of the API write them, and back (contract sections 1.4 and 1.6).

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use read::read;
pub(super) use write::{TagPayload, TaggedPayload, external, internal, tags};

/// Versions of the external API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// One port each.
    V0,
    /// A range of ports.
    V1,
}

impl Version {
    /// The version that a segment of the path names.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "v0" => Some(Self::V0),
            "v1" => Some(Self::V1),
            _ => None,
        }
    }
}
