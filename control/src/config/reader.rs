//! Reading parts of the tree: types, required and unknown keys. Every mistake is remembered, and
//! reading goes on.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::Mistake;
use super::mistake::suggestion;
use super::tree::{At, Node, Place};

/// Longest name of a cell or app, in bytes.
const NAME_MAX: usize = 200;

/// Networks that an overlay may be a part of (RFC 1918).
const PRIVATE: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// The entries of one map, taken out by name.
pub(super) struct Entries<'a> {
    pub(super) place: Place,
    what: &'a str,
    pairs: Vec<(At<String>, At<Node>)>,
}

pub(super) struct Reader {
    pub(super) mistakes: Vec<Mistake>,
}

impl Reader {
    pub(super) fn wrong(&mut self, place: Place, message: impl Into<String>) {
        self.mistakes.push(Mistake::at(place, message));
    }

    /// A map whose keys are all known and different.
    pub(super) fn map<'a>(
        &mut self,
        node: At<Node>,
        what: &'a str,
        known: &[&str],
    ) -> Option<Entries<'a>> {
        let At { place, value } = node;
        let entries = match value {
            Node::Map(entries) => entries,
            Node::Null => Vec::new(),
            other => {
                let (kind, keys) = (other.kind(), known.join(", "));
                self.wrong(place, format!("{what} is {kind}; it must be a map with {keys}"));
                return None;
            }
        };
        let mut seen: Vec<(At<String>, At<Node>)> = Vec::new();
        for (key, value) in entries {
            if let Some((first, _)) = seen.iter().find(|(other, _)| other.value == key.value) {
                let message = format!(
                    "`{}` is already given in line {}; keep one of them",
                    key.value, first.place.line
                );
                self.wrong(key.place, message);
            } else if known.contains(&key.value.as_str()) {
                seen.push((key, value));
            } else {
                let hint = match suggestion(&key.value, known.iter().copied()) {
                    none if none.is_empty() => format!("; known keys are {}", known.join(", ")),
                    near => near,
                };
                self.wrong(key.place, format!("{what} has no key `{}`{hint}", key.value));
            }
        }
        Some(Entries { place, what, pairs: seen })
    }

    pub(super) fn required(
        &mut self,
        entries: &mut Entries<'_>,
        key: &str,
        example: &str,
    ) -> Option<At<Node>> {
        let found = entries.take(key).filter(|node| node.value != Node::Null);
        if found.is_none() {
            let message =
                format!("{} has no `{key}`; add it, e.g. `{key}: {example}`", entries.what);
            self.wrong(entries.place, message);
        }
        found
    }

    /// Reads every item of a list; nothing at all is an empty list.
    pub(super) fn each<T>(
        &mut self,
        list: Option<At<Node>>,
        key: &str,
        read: impl Fn(&mut Self, At<Node>) -> Option<T>,
    ) -> Vec<At<T>> {
        match list {
            None | Some(At { value: Node::Null, .. }) => Vec::new(),
            Some(At { value: Node::List(items), .. }) => items
                .into_iter()
                .filter_map(|item| {
                    let place = item.place;
                    read(self, item).map(|value| At { place, value })
                })
                .collect(),
            Some(At { place, value }) => {
                let kind = value.kind();
                self.wrong(
                    place,
                    format!("{key} is {kind}; it must be a list, each item after `- `"),
                );
                Vec::new()
            }
        }
    }

    pub(super) fn text(&mut self, node: At<Node>, key: &str) -> Option<At<String>> {
        let At { place, value } = node;
        match value {
            Node::Text(value) => Some(At { place, value }),
            Node::Bool(_) | Node::Integer(_) | Node::Float(_) => {
                let kind = value.kind();
                self.wrong(
                    place,
                    format!("{key} reads as {kind}; put it in quotes to make it text"),
                );
                None
            }
            other => {
                self.wrong(place, format!("{key} is {}; it must be text", other.kind()));
                None
            }
        }
    }

    pub(super) fn name(&mut self, node: At<Node>, key: &str) -> Option<At<String>> {
        let text = self.text(node, key)?;
        let bad = text.value.chars().any(|c| c.is_control() || c.is_whitespace());
        if text.value.is_empty() || text.value.len() > NAME_MAX || bad {
            let rule = format!("use 1 to {NAME_MAX} characters without spaces");
            self.wrong(text.place, format!("`{}` cannot be {key}; {rule}", text.value));
            return None;
        }
        Some(text)
    }

    pub(super) fn number(
        &mut self,
        node: At<Node>,
        key: &str,
        range: std::ops::RangeInclusive<i128>,
        hint: &str,
    ) -> Option<At<i128>> {
        let At { place, value } = node;
        let (first, last) = (range.start(), range.end());
        match value {
            Node::Integer(value) if range.contains(&value) => Some(At { place, value }),
            Node::Integer(value) => {
                self.wrong(place, format!("{key} {value} is not in {first} to {last} ({hint})"));
                None
            }
            other => {
                let kind = other.kind();
                self.wrong(
                    place,
                    format!("{key} is {kind}; it must be a number in {first} to {last}"),
                );
                None
            }
        }
    }

    /// A time in seconds.
    pub(super) fn seconds(
        &mut self,
        section: &mut Entries<'_>,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        default: Duration,
    ) -> Duration {
        let range = (*range.start()).into()..=(*range.end()).into();
        let given = section.take(key).and_then(|node| self.number(node, key, range, "seconds"));
        given.map_or(default, |seconds| Duration::from_secs(seconds.value as u64))
    }

    pub(super) fn flag(&mut self, node: At<Node>, key: &str) -> Option<bool> {
        match node.value {
            Node::Bool(value) => Some(value),
            other => {
                let kind = other.kind();
                self.wrong(node.place, format!("{key} is {kind}; it must be true or false"));
                None
            }
        }
    }

    pub(super) fn absolute_path(&mut self, node: At<Node>, key: &str) -> Option<PathBuf> {
        let At { place, value } = self.text(node, key)?;
        let path = PathBuf::from(&value);
        if !path.is_absolute() {
            self.wrong(place, format!("{key} `{value}` is not an absolute path"));
            return None;
        }
        Some(path)
    }

    /// Where to listen. With port 0 the system picks one.
    pub(super) fn socket_address(&mut self, node: At<Node>, key: &str) -> Option<At<SocketAddr>> {
        let At { place, value } = self.text(node, key)?;
        let address = value.parse().ok();
        if address.is_none() {
            let example = "write it like 0.0.0.0:4002 or '[::1]:4002'";
            self.wrong(place, format!("{key} `{value}` is not an address with a port; {example}"));
        }
        address.map(|value| At { place, value })
    }

    /// What a browser names as the origin of a page, or `*` for any.
    pub(super) fn origin(&mut self, node: At<Node>) -> Option<String> {
        let At { place, value } = self.text(node, "an origin")?;
        let host = value.split_once("://").map_or("", |(_, host)| host);
        let plain = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && c != '/');
        if value != "*" && !plain {
            let example = "write one like https://console.example.org, or '*'";
            self.wrong(place, format!("`{value}` is not the origin of a page; {example}"));
            return None;
        }
        Some(value)
    }

    /// Complains about an overlay that is not private.
    pub(super) fn private(&mut self, overlay: At<Ipv4Net>) -> Option<At<Ipv4Net>> {
        match check_overlay(overlay.value) {
            Ok(()) => Some(overlay),
            Err(message) => {
                self.wrong(overlay.place, message);
                None
            }
        }
    }

    /// A network in prefix notation without host bits.
    pub(super) fn network_address(&mut self, node: At<Node>, key: &str) -> Option<At<Ipv4Net>> {
        let At { place, value } = self.text(node, key)?;
        match value.parse::<Ipv4Net>() {
            Ok(net) if net.trunc() == net => Some(At { place, value: net }),
            Ok(net) => {
                let right = net.trunc();
                self.wrong(place, format!("{key} {net} has host bits set; write {right}"));
                None
            }
            Err(_) => {
                self.wrong(
                    place,
                    format!("{key} `{value}` is not an IPv4 network; write it like 10.255.1.0/24"),
                );
                None
            }
        }
    }
}

impl Entries<'_> {
    pub(super) fn take(&mut self, key: &str) -> Option<At<Node>> {
        let index = self.pairs.iter().position(|(name, _)| name.value == key)?;
        Some(self.pairs.swap_remove(index).1)
    }
}

/// Whether an overlay is private, and so nobody's outside; what is wrong with it if not.
pub(crate) fn check_overlay(overlay: Ipv4Net) -> Result<(), String> {
    let private = PRIVATE.iter().filter_map(|(base, bits)| Ipv4Net::new(*base, *bits).ok());
    if private.clone().any(|network| network.contains(&overlay)) {
        return Ok(());
    }
    let known: Vec<_> = private.map(|network| network.to_string()).collect();
    let known = known.join(", ");
    Err(format!("overlay {overlay} is not private; choose a part of {known} (RFC 1918)"))
}
