use std::fs;

use sarcenet_server::policy::{Policy, Protocol, TagNumber, TaggedPolicy};

use super::*;

fn file() -> (tempfile::TempDir, SavedFile) {
    let directory = tempfile::tempdir().unwrap();
    let file = SavedFile::new(&Root::new(directory.path()));
    (directory, file)
}

fn something() -> Saved {
    let policy = |port| TaggedPolicy {
        policy: Policy {
            source: "app \"one\"\n".into(),
            destination: "app-2".into(),
            protocol: Protocol::Udp,
            first_port: port,
            last_port: 65_535,
        },
        source_tag: TagNumber(0xabcd),
        destination_tag: TagNumber(2),
    };
    let list = List { policies: vec![policy(1), policy(2)], left_out: 0 };
    let group = GroupText {
        guid: "G".into(),
        name: "public".into(),
        rules: r#"[{"protocol":"all","destination":"0.0.0.0/0"}]"#.into(),
        running_default: true,
        running_space_guids: vec!["S".into()],
        ..GroupText::default()
    };
    Saved {
        policies: Some(Arc::new(Policies::new(list).unwrap())),
        generation: 1_700_000_000_000_000_000,
        groups: Some(Arc::new(Groups::new(vec![group]))),
        outside: Some(Arc::new(OutsideTerms { security_groups: true, ..OutsideTerms::default() })),
        overlay: Some(OverlayTerms { ingress: true, open: false }),
        router_tag: Some(0xfedc),
    }
}

#[test]
fn what_is_written_is_read() {
    let (_directory, file) = file();
    assert_eq!(file.load().unwrap(), (Saved::default(), None), "there is none yet");
    let nothing_said = Saved { policies: Some(Arc::default()), ..Saved::default() };
    for saved in [something(), nothing_said, Saved::default()] {
        file.save(&saved).unwrap();
        assert_eq!(file.load().unwrap(), (saved, None));
    }
}

#[test]
fn any_damage_is_noticed_and_opens_nothing() {
    let (_directory, file) = file();
    file.save(&something()).unwrap();
    let good = fs::read(file.path()).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    damaged.extend((0..good.len()).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    }));
    for bytes in damaged {
        fs::write(file.path(), &bytes).unwrap();
        let (saved, problem) = file.load().unwrap();
        assert_eq!(saved, Saved::default(), "{}", String::from_utf8_lossy(&bytes));
        assert!(problem.unwrap().contains("was damaged"));
        assert!(!file.path().exists());
        let aside = file.path().with_extension("json.damaged");
        assert_eq!(fs::read(&aside).unwrap(), bytes, "it is kept for who wants to know");
    }
}

#[test]
fn a_disk_that_takes_nothing_leaves_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("var"), "in the way").unwrap();
    let file = SavedFile::new(&Root::new(directory.path()));
    let error = file.save(&something()).unwrap_err().to_string();
    assert!(error.contains("followed.json, so that a restart would bring older"), "{error}");
}
