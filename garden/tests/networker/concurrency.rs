//! Many calls at a time.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::world::{
    Container, Done, HANDLE, acquired, action, calls, down, finish, on_cell, start,
};

/// Starts all of these calls, each with its action, handle and input, then waits for all.
fn all(wishes: impl IntoIterator<Item = (&'static str, String, String)>) -> Vec<Done> {
    let started: Vec<_> = wishes
        .into_iter()
        .map(|(what, handle, input)| start(&mut action(what, &handle), &input))
        .collect();
    started.into_iter().map(finish).collect()
}

fn handle(number: usize) -> String {
    format!("container-{number}")
}

#[test]
fn no_port_is_given_twice() {
    const CONTAINERS: usize = 24;
    on_cell(|| {
        let container = Container::start();
        let wish = container.wish().to_string();
        let ups = || (0..CONTAINERS).map(|n| ("up", handle(n), wish.clone()));
        for done in all(ups()) {
            assert_eq!((done.status, done.errors.as_str()), (Some(0), ""));
        }
        let held = acquired();
        let ports = |of: &Value| -> Vec<u64> {
            of.as_object()
                .unwrap()
                .values()
                .flat_map(|ports| ports.as_array().unwrap().iter().map(|p| p.as_u64().unwrap()))
                .collect()
        };
        let different: BTreeSet<_> = ports(&held).into_iter().collect();
        assert_eq!(different, (61_000..61_000 + 2 * CONTAINERS as u64).collect());
        // Half of them go while others come.
        let going = (0..CONTAINERS / 2).map(|n| ("down", handle(n), "null".to_owned()));
        let coming = (CONTAINERS..CONTAINERS + 12).map(|n| ("up", handle(n), wish.clone()));
        let mixed = going.zip(coming).flat_map(|(one, other)| [one, other]);
        for done in all(mixed) {
            assert_eq!((done.status, done.errors.as_str()), (Some(0), ""));
        }
        let held = ports(&acquired());
        assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
        assert_eq!(held.len(), 2 * CONTAINERS);
        for done in all((0..CONTAINERS + 12).map(|n| ("down", handle(n), "null".to_owned()))) {
            assert_eq!((done.status, done.errors.as_str()), (Some(0), ""));
        }
        assert_eq!(acquired(), json!({}));
    });
}

#[test]
fn calls_for_one_container_come_one_after_the_other() {
    on_cell(|| {
        let container = Container::start();
        let wish = container.wish().to_string();
        let mixed = (0..12).map(|n| {
            let (what, input) = if n % 3 == 2 { ("down", "null") } else { ("up", wish.as_str()) };
            (what, HANDLE.to_owned(), input.to_owned())
        });
        for done in all(mixed) {
            assert_eq!((done.status, done.errors.as_str()), (Some(0), ""));
        }
        // Each call ran both of its plugins before the next one ran any.
        for pair in calls().chunks(2) {
            let command = |call: &str| call.split(' ').next().unwrap().to_owned();
            assert_eq!(command(&pair[0]), command(&pair[1]), "{:?}", calls());
            assert_ne!(pair[0], pair[1]);
        }
        down(HANDLE);
    });
}
