//! `security_groups:`: what containers may reach outside.

use std::collections::BTreeSet;

use super::reader::{Entries, Reader};
use super::tree::{At, Node, Place};
use crate::security_groups::{EgressSpec, Field, RuleText, SecurityGroup};

/// A group as far as it could be read.
#[derive(Debug)]
pub(super) struct GroupParts {
    pub(super) name: Option<At<String>>,
    /// Without its name; none when a rule of it is wrong.
    pub(super) group: SecurityGroup,
    /// Its rules as they are written.
    pub(super) texts: Vec<RuleText>,
}

impl Reader {
    pub(super) fn security_group(&mut self, node: At<Node>) -> Option<GroupParts> {
        let known =
            ["name", "rules", "spaces", "staging_spaces", "running_default", "staging_default"];
        let mut entry = self.map(node, "a security group", &known)?;
        let name = self.required(&mut entry, "name", "public_networks");
        let name = name.and_then(|node| self.name(node, "the name of a security group"));
        let called = name.as_ref().map_or("?", |name| name.value.as_str()).to_owned();
        let mut number = 0_u32;
        let rules: Vec<_> = match entry.take("rules") {
            Some(At { value: Node::List(items), .. }) => items
                .into_iter()
                .filter_map(|item| {
                    number += 1;
                    self.rule(item, &called, number)
                })
                .collect(),
            other => {
                // Nothing, or no list: said as of every other list.
                self.each(other, "rules", |_, _| None::<()>);
                Vec::new()
            }
        };
        let spaces = self.spaces(&mut entry, "spaces");
        let staging_spaces = self.spaces(&mut entry, "staging_spaces");
        let mut flag = |key: &str| entry.take(key).and_then(|node| self.flag(node, key));
        let running_default = flag("running_default").unwrap_or(false);
        let staging_default = flag("staging_default").unwrap_or(false);
        let (texts, rules) = rules.into_iter().unzip();
        let group = SecurityGroup {
            name: called,
            rules,
            spaces,
            staging_spaces,
            running_default,
            staging_default,
        };
        Some(GroupParts { name, group, texts })
    }

    fn spaces(&mut self, entry: &mut Entries<'_>, key: &str) -> BTreeSet<String> {
        let list = entry.take(key);
        let spaces = self.each(list, key, |reader, node| reader.name(node, "the id of a space"));
        spaces.into_iter().map(|space| space.value.value).collect()
    }

    /// Reads a rule. `number` counts from 1, for people.
    fn rule(&mut self, node: At<Node>, group: &str, number: u32) -> Option<(RuleText, EgressSpec)> {
        let place = node.place;
        let what = format!("rule {number} of security group `{group}`");
        let known = ["protocol", "destination", "ports", "type", "code", "log", "description"];
        let before = self.mistakes.len();
        let mut entry = self.map(node, &what, &known)?;
        let mut places: Vec<(Field, Place)> = Vec::new();
        let mut take = |field, key: &str| {
            let node = entry.take(key).filter(|node| node.value != Node::Null)?;
            places.push((field, node.place));
            Some(node)
        };
        let (protocol, destination) =
            (take(Field::Protocol, "protocol"), take(Field::Destination, "destination"));
        let (ports, kind) = (take(Field::Ports, "ports"), take(Field::Type, "type"));
        let code = take(Field::Code, "code");
        let mut number = |node: Option<At<Node>>, key| {
            let number = self.number(node?, key, -1..=255, "-1 for any")?;
            Some(number.value as i64)
        };
        let (kind, code) = (number(kind, "type"), number(code, "code"));
        let mut text = |node: Option<At<Node>>, key| {
            let node = node?;
            if let Node::Integer(one) = node.value
                && key == "ports"
            {
                return Some(one.to_string());
            }
            self.text(node, key).map(|text| text.value)
        };
        let protocol = text(protocol, "protocol");
        let destination = text(destination, "destination");
        let ports = text(ports, "ports");
        let description = text(entry.take("description"), "description");
        let log = entry.take("log").and_then(|node| self.flag(node, "log")).unwrap_or(false);
        if self.mistakes.len() > before {
            return None;
        }
        let rule = RuleText {
            protocol: protocol.unwrap_or_default(),
            destination: destination.unwrap_or_default(),
            ports,
            kind,
            code,
            log,
            description,
        };
        match rule.parse() {
            Ok(spec) => Some((rule, spec)),
            Err(e) => {
                let field = e.field();
                let at = places.iter().find(|(other, _)| *other == field);
                self.wrong(at.map_or(place, |(_, at)| *at), format!("{what}: {e}"));
                None
            }
        }
    }
}
