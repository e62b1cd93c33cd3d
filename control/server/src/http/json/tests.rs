//! What is read, and what is not.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Ports {
    start: i32,
    end: u16,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Thing {
    id: String,
    task: bool,
    ports: Ports,
    list: Vec<Ports>,
    names: BTreeMap<String, String>,
    maybe: Option<Ports>,
    any: Value,
}

fn thing(change: impl FnOnce(&mut Thing)) -> Thing {
    let mut thing = Thing::default();
    change(&mut thing);
    thing
}

fn ports(start: i32, end: u16) -> Ports {
    Ports { start, end }
}

#[test]
fn texts_are_read_as_go_reads_them() {
    let table: Vec<(&str, Thing)> = vec![
        ("{}", thing(|_| {})),
        (" null\n", thing(|_| {})),
        (r#"{"id":"a"}"#, thing(|t| t.id = "a".into())),
        (r#"{"ID":"a","Task":true}"#, thing(|t| (t.id, t.task) = ("a".into(), true))),
        (r#"{"taſK":true}"#, thing(|t| t.task = true)),
        ("{\"tas\u{212a}\":true}", thing(|t| t.task = true)),
        (r#"{"\u0049d":"a"}"#, thing(|t| t.id = "a".into())),
        (r#"{"PORTS":{"START":-1,"eNd":2}}"#, thing(|t| t.ports = ports(-1, 2))),
        (
            r#"{"list":[{"Start":1},null,{"END":2}]}"#,
            thing(|t| t.list = vec![ports(1, 0), ports(0, 0), ports(0, 2)]),
        ),
        (r#"{"maybe":{"Start":1}}"#, thing(|t| t.maybe = Some(ports(1, 0)))),
        (
            r#"{"id":null,"task":null,"ports":null,"list":null,"names":null,"maybe":null}"#,
            thing(|_| {}),
        ),
        (r#"{"ports":{"start":null,"end":null}}"#, thing(|_| {})),
        // Keys of maps are what they are.
        (
            r#"{"names":{"ID":"a","b":null}}"#,
            thing(|t| {
                t.names = [("ID".into(), "a".into()), ("b".into(), String::new())].into();
            }),
        ),
        (r#"{"any":{"ID":[1,null]}}"#, thing(|t| t.any = json!({"ID": [1, null]}))),
        (r#"{"more":{"id":[{}]},"i d":1,"id":"a"}"#, thing(|t| t.id = "a".into())),
    ];
    for (text, wanted) in table {
        assert_eq!(from_slice::<Thing>(text.as_bytes()).as_ref(), Ok(&wanted), "{text}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let deep = format!("{}{}", r#"{"any":"#, "[".repeat(100_000));
    let hidden = format!("{}{}", r#"{"unknown":"#, "[".repeat(100_000));
    let long = format!(r#"{{"task":"{}"}}"#, "ö".repeat(1 << 20));
    let table: [(&str, &str); 15] = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object"),
        ("{} {}", "trailing characters at line 1 column 4"),
        ("[]", "invalid type: sequence, expected struct Thing"),
        ("7", "invalid type: integer `7`, expected struct Thing"),
        (r#"{"id":7}"#, "invalid type: integer `7`, expected a string at line 1 column 7"),
        (r#"{"task":"true"}"#, r#"invalid type: string "true", expected a boolean"#),
        (r#"{"ports":[1,2]}"#, "invalid type: sequence, expected struct Ports"),
        (r#"{"ports":{"end":65536}}"#, "invalid value: integer `65536`, expected u16"),
        (r#"{"ports":{"end":1.0}}"#, "invalid type: floating point `1.0`, expected u16"),
        (r#"{"ports":{"start":99999999999}}"#, "invalid value: integer `99999999999`"),
        (r#"{"id":"a","ID":"b"}"#, "duplicate field `id`"),
        (&deep, "recursion limit exceeded"),
        (&hidden, "EOF while parsing"),
        (&long, "öö... at line 1 column"),
    ];
    for (text, wanted) in table {
        let error = from_slice::<Thing>(text.as_bytes()).unwrap_err().to_string();
        let start = &text[..text.floor_char_boundary(60)];
        assert!(error.contains(wanted), "{start}: {error}");
        assert!(error.len() < 400, "{start}: {error}");
    }
    assert!(from_slice::<Thing>(b"{\"id\":\"\xff\"}").is_err());
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = from_slice::<Thing>(&text);
        let _ = from_slice::<Value>(&text);
    }

    /// Where neither case nor null matter, it reads what serde_json reads.
    #[test]
    fn it_agrees_with_plain_json(
        text in r#"(\{("(id|task|any|list|x)":("a"|1|true|\[\]|\{"b":2\}),){0,2}"maybe":(1|\{\})\}|[0-9]{1,3}|".{0,4}")"#,
    ) {
        let ours = from_slice::<Thing>(text.as_bytes());
        let theirs = serde_json::from_str::<Thing>(&text);
        prop_assert_eq!(ours.ok(), theirs.ok());
    }

    #[test]
    fn the_case_of_keys_does_not_matter(upper in prop::collection::vec(any::<bool>(), 12)) {
        let mut upper = upper.into_iter();
        let text: String = r#"{"id":"7","ports":{"end":7}}"#
            .chars()
            .map(|c| {
                let turn = c.is_ascii_alphabetic() && upper.next().unwrap_or_default();
                if turn { c.to_ascii_uppercase() } else { c }
            })
            .collect();
        let wanted = thing(|t| (t.id, t.ports) = ("7".into(), ports(0, 7)));
        prop_assert_eq!(from_slice::<Thing>(text.as_bytes()).unwrap(), wanted, "{}", text);
    }
}
