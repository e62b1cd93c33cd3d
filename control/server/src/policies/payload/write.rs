//! From policies to the bodies of answers.

use serde::Serialize;

use super::Version;
use crate::policy::{Policy, Protocol, Tag, TaggedPolicy};

#[derive(Serialize)]
struct List<P> {
    total_policies: usize,
    policies: Vec<P>,
}

#[derive(Serialize)]
struct Entry<'a, D> {
    source: Id<'a>,
    destination: D,
}

#[derive(Serialize)]
struct Id<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct OnePort<'a> {
    id: &'a str,
    protocol: Protocol,
    port: u32,
}

#[derive(Serialize)]
struct PortRange<'a> {
    id: &'a str,
    protocol: Protocol,
    ports: Ports,
}

#[derive(Serialize)]
struct Ports {
    start: u32,
    end: u32,
}

/// A policy with tags, as cells read it (contract section 2.1).
#[derive(Serialize)]
pub(crate) struct TaggedPayload<'a> {
    source: Tagged<'a>,
    destination: TaggedDestination<'a>,
}

#[derive(Serialize)]
struct Tagged<'a> {
    id: &'a str,
    tag: String,
}

#[derive(Serialize)]
struct TaggedDestination<'a> {
    id: &'a str,
    tag: String,
    protocol: Protocol,
    ports: Ports,
}

/// A tag (contract sections 1.7 and 2.3).
#[derive(Serialize)]
pub(crate) struct TagPayload<'a> {
    id: &'a str,
    tag: String,
    #[serde(rename = "type")]
    kind: &'a str,
}

impl<'a> TaggedPayload<'a> {
    /// Tags are written with so many bytes.
    pub(crate) fn new(tagged: &'a TaggedPolicy, tag_bytes: u8) -> Self {
        let TaggedPolicy { policy, source_tag, destination_tag } = tagged;
        Self {
            source: Tagged { id: &policy.source, tag: source_tag.text(tag_bytes) },
            destination: TaggedDestination {
                id: &policy.destination,
                tag: destination_tag.text(tag_bytes),
                protocol: policy.protocol,
                ports: Ports { start: policy.first_port, end: policy.last_port },
            },
        }
    }
}

impl<'a> TagPayload<'a> {
    /// The tag is written with so many bytes.
    pub(crate) fn new(tag: &'a Tag, tag_bytes: u8) -> Self {
        Self { id: &tag.id, tag: tag.number.text(tag_bytes), kind: &tag.kind }
    }
}

/// The list for users. Version 0 has no way to write ranges and is silent about them.
pub(crate) fn external(version: Version, policies: &[Policy]) -> serde_json::Result<Vec<u8>> {
    match version {
        Version::V0 => {
            list(policies.iter().filter(|p| p.first_port == p.last_port).map(|policy| {
                let (id, protocol, port) =
                    (&*policy.destination, policy.protocol, policy.first_port);
                Entry {
                    source: Id { id: &policy.source },
                    destination: OnePort { id, protocol, port },
                }
            }))
        }
        Version::V1 => list(policies.iter().map(|policy| {
            let ports = Ports { start: policy.first_port, end: policy.last_port };
            let (id, protocol) = (&*policy.destination, policy.protocol);
            Entry {
                source: Id { id: &policy.source },
                destination: PortRange { id, protocol, ports },
            }
        })),
    }
}

/// The list for cells.
pub(crate) fn internal(policies: &[TaggedPolicy], tag_bytes: u8) -> serde_json::Result<Vec<u8>> {
    list(policies.iter().map(|policy| TaggedPayload::new(policy, tag_bytes)))
}

fn list<P: Serialize>(policies: impl Iterator<Item = P>) -> serde_json::Result<Vec<u8>> {
    let policies: Vec<P> = policies.collect();
    serde_json::to_vec(&List { total_policies: policies.len(), policies })
}

/// The list of tags.
pub(crate) fn tags(tags: &[Tag], tag_bytes: u8) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Tags<'a> {
        tags: Vec<TagPayload<'a>>,
    }
    let tags = tags.iter().map(|tag| TagPayload::new(tag, tag_bytes)).collect();
    serde_json::to_vec(&Tags { tags })
}
