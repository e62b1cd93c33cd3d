//! What policy servers say of security groups (contract section 2.4).

use std::fmt;

use sarcenet_dataplane_api::MAX_EGRESS_RULES;
use sarcenet_server::http::json::{self, JsonError};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::security_groups::{EgressSpec, RuleText, SecurityGroup};

/// A security group as the internal API writes it; the agent's disk has it in the same form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupText {
    /// Its GUID.
    pub guid: String,
    /// Its name.
    pub name: String,
    /// Its rules: a list, as the text of JSON.
    pub rules: String,
    /// Whether it holds for all staging containers.
    pub staging_default: bool,
    /// Whether it holds for all running containers.
    pub running_default: bool,
    /// Spaces whose staging containers it holds for.
    pub staging_space_guids: Vec<String>,
    /// Spaces whose running containers it holds for.
    pub running_space_guids: Vec<String>,
}

/// A part of the list of groups.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Page {
    /// Where the next part begins; 0: this is the last one.
    pub next: i64,
    /// The groups of this part.
    pub security_groups: Option<GroupList>,
}

/// Groups that have a GUID.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GroupList(pub Vec<GroupText>);

/// What a server says of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The latest generation, and whether groups have changed since the one that was named.
    Change {
        /// The generation.
        generation: i64,
        /// Whether they have.
        changed: bool,
    },
    /// When groups changed last, in nanoseconds since the epoch; none if the server does not say. It
    /// does not tell of changes by itself.
    Moment(Option<i64>),
}

#[derive(Deserialize)]
struct Change {
    generation: i64,
    changed: bool,
}

/// Reads what a server says of changes.
pub(super) fn told(body: &[u8]) -> Result<Told, JsonError> {
    if let Some(moment) = std::str::from_utf8(body).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(Told::Moment(Some(moment)));
    }
    let Change { generation, changed } = json::from_slice(body)?;
    Ok(Told::Change { generation, changed })
}

/// Reads a part of the list.
pub(super) fn read(body: &[u8]) -> Result<Page, JsonError> {
    json::from_slice(body)
}

impl<'de> Deserialize<'de> for GroupList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(GroupVisitor)
    }
}

struct GroupVisitor;

impl<'de> Visitor<'de> for GroupVisitor {
    type Value = GroupList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of security groups")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<GroupList, A::Error> {
        let mut groups = Vec::new();
        while let Some(group) = entries.next_element::<GroupText>()? {
            if group.guid.is_empty() {
                return Err(A::Error::custom("a security group without a GUID"));
            }
            groups.push(group);
        }
        Ok(GroupList(groups))
    }
}

/// Groups that can be enforced, and what of them cannot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The groups. What is left out of one has no destinations, so that the others keep their numbers.
    pub groups: Vec<SecurityGroup>,
    /// How many rules are left out: nothing is open that only they would open.
    pub left_out: usize,
    /// The first of them, and why.
    pub first: Option<String>,
}

/// What `texts` mean. What makes no sense is left out, as is what is beyond the number of rules that
/// the dataplane takes.
pub fn convert(texts: &[GroupText]) -> Converted {
    let mut converted = Converted::default();
    let mut room = MAX_EGRESS_RULES;
    for text in texts {
        let rules = match rules(&text.rules) {
            Ok(rules) => rules,
            Err(e) => {
                converted.leave_out(&text.name, format_args!("its rules: {e}"));
                Vec::new()
            }
        };
        let rules = rules.into_iter().zip(1..).map(|(rule, number)| {
            let fitting = rule.and_then(|spec| {
                let size = spec.destinations.len().saturating_mul(spec.traffic.len());
                room = room.checked_sub(size).ok_or_else(|| {
                    format!("it is beyond the {MAX_EGRESS_RULES} that all groups can have")
                })?;
                Ok(spec)
            });
            fitting.unwrap_or_else(|reason| {
                converted.leave_out(&text.name, format_args!("rule {number}: {reason}"));
                EgressSpec { destinations: Vec::new(), traffic: Vec::new(), log: false }
            })
        });
        let rules = rules.collect();
        converted.groups.push(SecurityGroup {
            name: text.name.clone(),
            rules,
            spaces: text.running_space_guids.iter().cloned().collect(),
            staging_spaces: text.staging_space_guids.iter().cloned().collect(),
            running_default: text.running_default,
            staging_default: text.staging_default,
        });
    }
    converted
}

impl Converted {
    fn leave_out(&mut self, group: &str, what: fmt::Arguments<'_>) {
        self.left_out += 1;
        self.first.get_or_insert_with(|| {
            let mut text = format!("security group {group}, {what}");
            text.truncate(text.floor_char_boundary(300));
            text
        });
    }
}

/// The rules of a group, or what is wrong with each.
fn rules(text: &str) -> Result<Vec<Result<EgressSpec, String>>, JsonError> {
    struct Rules(Vec<Result<EgressSpec, String>>);

    struct RulesVisitor;

    impl<'de> Visitor<'de> for RulesVisitor {
        type Value = Rules;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of rules")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Rules, A::Error> {
            let mut rules = Vec::new();
            while let Some(rule) = entries.next_element::<Value>()? {
                rules.push(self::rule(&rule));
            }
            Ok(Rules(rules))
        }
    }

    impl<'de> Deserialize<'de> for Rules {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(RulesVisitor)
        }
    }

    match text.trim() {
        "" | "null" => Ok(Vec::new()),
        text => Ok(serde_json::from_str::<Rules>(text)?.0),
    }
}

/// One rule. It is read by itself, so that one that is wrong does not take the others with it.
fn rule(value: &Value) -> Result<EgressSpec, String> {
    let text: RuleText =
        json::from_slice(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
    text.parse().map_err(|e| e.to_string())
}
