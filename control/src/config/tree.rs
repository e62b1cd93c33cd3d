//! A YAML document as a tree in which every key and value knows its line and column, so that all
//! mistakes of a file can be found in one pass and each can be pointed at.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::Mistake;

/// A place in the file; lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line() as u32, column: location.column() as u32 }
    }
}

/// Something and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

/// A value as YAML's core schema reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<At<Node>>),
    Map(Vec<(At<String>, At<Node>)>),
}

impl Node {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) => "a number",
            Self::Float(_) => "a decimal number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Reads one YAML document. An error of the syntax ends the reading: there is only one.
pub(super) fn read(text: &str) -> Result<At<Node>, Mistake> {
    let options = serde_saphyr::options! {
        // Reported by the caller, with the other mistakes.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_total_scalar_bytes: 256 << 20,
            max_depth: 64,
        },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Node>>(text, options) {
        Ok(root) => Ok(located(root)),
        Err(error) => Err(Mistake::at(
            error.location().map_or(Place { line: 1, column: 1 }, Place::from),
            format!("not valid YAML: {}", one_line(&error.without_snippet().to_string())),
        )),
    }
}

/// The first line of the parser's message, without the place that it repeats.
fn one_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    match line.find(" at line ") {
        Some(end) => line[..end].to_owned(),
        None => line.to_owned(),
    }
}

fn located<T>(spanned: Spanned<T>) -> At<T> {
    At { place: spanned.referenced.into(), value: spanned.value }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any YAML value")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Integer(value.into()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
                Ok(Node::Integer(value))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
                Ok(Node::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Node, E> {
                Ok(Node::Text(value))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
                Node::deserialize(inner)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element::<Spanned<Node>>()? {
                    list.push(located(item));
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(key) = entries.next_key::<Spanned<String>>()? {
                    map.push((located(key), located(entries.next_value::<Spanned<Node>>()?)));
                }
                Ok(Node::Map(map))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_text() {
        let root = read("a: 1\nlist:\n  - {x: yes, y: 10.0.0.0/8}\n  - 7000-8000\n").unwrap();
        let Node::Map(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!(entries[0].0, At { place: Place { line: 1, column: 1 }, value: "a".into() });
        assert_eq!(entries[0].1.value, Node::Integer(1));
        assert_eq!(entries[1].0.place, Place { line: 2, column: 1 });
        let Node::List(items) = &entries[1].1.value else { panic!("{root:?}") };
        assert_eq!(items[0].place, Place { line: 3, column: 5 });
        assert_eq!(items[1].place, Place { line: 4, column: 5 });
        assert_eq!(items[1].value, Node::Text("7000-8000".into()));
        let Node::Map(inner) = &items[0].value else { panic!("{root:?}") };
        assert_eq!(inner[1].1.place, Place { line: 3, column: 17 });
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let mistake = read("a: [1, 2\nb: 3\n").unwrap_err();
        assert!(mistake.line >= 1 && mistake.message.starts_with("not valid YAML: "), "{mistake}");
    }

    #[test]
    fn an_empty_file_is_nothing() {
        assert_eq!(read("").unwrap().value, Node::Null);
        assert_eq!(read("# only a comment\n").unwrap().value, Node::Null);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = read(&text);
        }
    }
}
