//! What policy servers answer: ours when they are asked to watch, and those of Cloud Foundry, which
//! know nothing of that (contract section 2.1).

use std::fmt;

use sarcenet_server::http::json::{self, JsonError};
use sarcenet_server::policy::{Policy, Protocol, TagNumber, TaggedPolicy};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All policies of a generation.
    Everything {
        /// The generation.
        generation: i64,
        /// The policies.
        list: List,
    },
    /// What became of the policies of a generation.
    Changes {
        /// The generation that they are of now.
        generation: i64,
        /// The generation that they were of.
        since: i64,
        /// What came.
        added: List,
        /// What went.
        removed: List,
    },
    /// All policies, of a server that knows no generations.
    Plain(List),
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is no JSON, or something in it has another type.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It is JSON of something else.
    #[error("it has neither policies nor changes of policies")]
    Nothing,
    /// Not all of it is there.
    #[error("it promises {promised} policies and has {there}")]
    Incomplete {
        /// How many it says.
        promised: usize,
        /// How many there are.
        there: usize,
    },
}

/// Policies of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// Those that can be enforced.
    pub policies: Vec<TaggedPolicy>,
    /// How many cannot: a tag beyond the 16 bits of the tunnel's header or of nobody, a port that is none,
    /// a protocol that is not known, an end without a name. What they would admit stays refused.
    pub left_out: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    total_policies: Option<usize>,
    policies: Option<List>,
    generation: i64,
    since: Option<i64>,
    added: Option<List>,
    removed: Option<List>,
}

/// Reads an answer to a question for policies.
pub(super) fn read(body: &[u8]) -> Result<Answer, AnswerError> {
    let Body { total_policies, policies, generation, since, added, removed } =
        json::from_slice(body)?;
    if let Some(since) = since {
        let (Some(added), Some(removed)) = (added, removed) else {
            return Err(AnswerError::Nothing);
        };
        return Ok(Answer::Changes { generation, since, added, removed });
    }
    let list = match policies {
        Some(list) => list,
        // What is empty may be written as nothing.
        None if total_policies == Some(0) => List::default(),
        None => return Err(AnswerError::Nothing),
    };
    let there = list.policies.len() + list.left_out;
    match total_policies {
        Some(promised) if promised != there => Err(AnswerError::Incomplete { promised, there }),
        // Generations are times; only a server that watches has them.
        None if generation != 0 => Ok(Answer::Everything { generation, list }),
        _ => Ok(Answer::Plain(list)),
    }
}

/// A policy as both APIs write it, in the external one without tags; the agent's disk has it in the
/// form of the internal one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PolicyText {
    pub(crate) source: SourceText,
    pub(crate) destination: DestinationText,
}

/// The app that opens conversations.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SourceText {
    pub(crate) id: String,
    tag: String,
}

/// The app that is talked to.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DestinationText {
    pub(crate) id: String,
    tag: String,
    pub(crate) protocol: String,
    pub(crate) ports: PortsText,
}

/// Ports, which may be none that there are.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PortsText {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

impl PolicyText {
    fn policy(self) -> Option<TaggedPolicy> {
        let Self { source, destination } = self;
        let protocol = match destination.protocol.as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let PortsText { start, end } = destination.ports;
        if source.id.is_empty() || destination.id.is_empty() || start > end {
            return None;
        }
        let port = |port: i64| u16::try_from(port).ok().filter(|port| *port > 0).map(u32::from);
        let (first_port, last_port) = (port(start)?, port(end)?);
        let (source_tag, destination_tag) = (tag(&source.tag)?, tag(&destination.tag)?);
        let (source, destination) = (source.id, destination.id);
        let policy = Policy { source, destination, protocol, first_port, last_port };
        Some(TaggedPolicy { policy, source_tag, destination_tag })
    }
}

impl From<&TaggedPolicy> for PolicyText {
    fn from(tagged: &TaggedPolicy) -> Self {
        let TaggedPolicy { policy, source_tag, destination_tag } = tagged;
        Self {
            source: SourceText { id: policy.source.clone(), tag: source_tag.text(2) },
            destination: DestinationText {
                id: policy.destination.clone(),
                tag: destination_tag.text(2),
                protocol: policy.protocol.name().to_owned(),
                ports: PortsText { start: policy.first_port.into(), end: policy.last_port.into() },
            },
        }
    }
}

/// A tag that a packet can carry.
fn tag(text: &str) -> Option<TagNumber> {
    let number = u32::from_str_radix(text, 16).ok()?;
    (1..=u16::MAX.into()).contains(&number).then_some(TagNumber(number))
}

/// Policies in the form of [`List`].
pub(super) fn written<'a, S: serde::Serializer>(
    policies: impl IntoIterator<Item = &'a TaggedPolicy>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.into_iter().map(PolicyText::from))
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

/// Each policy is looked at as it is read, so that memory is bounded by the answer.
struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of policies")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<List, A::Error> {
        let mut list = List::default();
        while let Some(entry) = entries.next_element::<PolicyText>()? {
            match entry.policy() {
                Some(policy) => list.policies.push(policy),
                None => list.left_out += 1,
            }
        }
        Ok(list)
    }
}
