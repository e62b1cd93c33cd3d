//! What is said when servers cannot start, and when they wait.

use std::fs;
use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::world::{EVERYTHING, World};

#[test]
fn a_good_file_has_no_mistakes() {
    let checked = World::new(EVERYTHING).run(&["control", "--check"]);
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(
        text.ends_with("control.yaml: no mistakes; policy-server, subnet-controller\n"),
        "{text}"
    );
    assert_eq!(checked.status.code(), Some(0));
}

#[test]
fn what_cannot_be_had_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // What is in the control file instead of what, which file is removed, and what is said.
    let table = [
        (
            "external: {listen: '127.0.0.1:0'",
            &*format!("external: {{listen: '{taken}'"),
            "",
            &*format!("cannot listen on {taken} for external: "),
        ),
        ("", "", "etc/sarcenet/control.yaml", "cannot read "),
        (
            "",
            "",
            "etc/sarcenet/certs/server.crt",
            "server.crt: No such file or directory (os error 2); `sarcenet certs init` makes",
        ),
        ("", "", "etc/sarcenet/certs/ca.crt", "ca.crt: No such file"),
        ("", "", "etc/sarcenet/tokens.yaml", "cannot read the tokens file "),
        ("auth:", "database: 'sqlite:/nowhere/control.db'\nauth:", "", "/nowhere/control.db"),
        ("10.255.0.0/16", "11.0.0.0/8", "", "control.yaml:3:42: overlay 11.0.0.0/8 is not private"),
    ];
    for (from, to, removed, said) in table {
        let world = World::new(&EVERYTHING.replacen(from, to, usize::from(!from.is_empty())));
        if !removed.is_empty() {
            fs::remove_file(world.path(removed)).unwrap();
        }
        let ended = world.run(&["control"]);
        let text = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("sarcenet: ") && last.contains(said), "{text}");
    }
}

#[test]
fn who_waits_for_the_database_can_be_ended_and_tells_no_password() {
    let waiting = EVERYTHING.to_owned() + "database: postgres://ada:hidden@127.0.0.1:1/policies\n";
    let world = World::new(&waiting);
    let mut control = world.spawn();
    let told = control.logged("waiting for the database");
    assert!(!told.to_string().contains("hidden"), "{told}");
    assert_eq!(control.end(Signal::SIGTERM), Some(0));
}

#[test]
fn certificates_are_made_once() {
    let world = World::new("");
    let certs = world.path("certs");
    let words = ["certs", "init", "--name", "control.example.org", "--name", "10.1.2.3", "--dir"];
    let init = |more: &[&str]| {
        let made = world.command(&words).arg(&certs).args(more).output().unwrap();
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        String::from_utf8(made.stdout).unwrap()
    };
    let files = || {
        let read = |name| fs::read(certs.join(name)).unwrap();
        ["ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key"].map(read)
    };
    assert_eq!(init(&[]).lines().count(), 6);
    let first = files();
    assert!(init(&[]).contains("all certificates are there"));
    assert_eq!(files(), first);
    assert_eq!(init(&["--renew"]).lines().count(), 4);
    let second = files();
    assert_eq!(second[..2], first[..2]);
    assert!(second[2..].iter().zip(&first[2..]).all(|(new, old)| new != old));
    let refused = world.run(&["certs", "init", "--name", "no name"]);
    assert_eq!(refused.status.code(), Some(1));
}
