use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use sarcenet_agent_api::{
    AddressRange, Bandwidth, CellTerms, HostService, IcmpControl, Metadata, NetOutRule,
    PortMapping, Protocol, Rate,
};

use super::*;

fn terms() -> Terms {
    let metadata = Metadata { space_id: Some("s".into()), ..Metadata::default() };
    let mapping = PortMapping { protocol: Protocol::Tcp, host_port: 61_000, container_port: 8080 };
    let rule = NetOutRule {
        protocol: 3,
        networks: vec![AddressRange { first: [10, 0, 0, 1].into(), last: [10, 0, 0, 9].into() }],
        icmp: Some(IcmpControl { kind: 8, code: Some(0) }),
        ..NetOutRule::default()
    };
    let rate = Some(Rate { bits_per_second: 8_000, burst_bits: 16_000 });
    let bandwidth = Bandwidth { send: rate, receive: None };
    let service =
        HostService { address: [169, 254, 0, 2].into(), protocol: Protocol::Udp, port: 53 };
    let cell = CellTerms {
        services: vec![service],
        not_masqueraded: vec!["10.9.0.0/16".parse().unwrap()],
    };
    Terms { metadata, mappings: vec![mapping], net_out: vec![rule], bandwidth, cell }
}

fn saved(container: &str, last: u8) -> Saved {
    Saved {
        id: AttachmentId { container: container.into(), ifname: "eth0".into() },
        address: [10, 255, 55, last].into(),
        netns_path: format!("/run/netns/{container}"),
        netns_inode: 4_026_531_840,
        network: "network".into(),
        app: Some("app-a".into()),
        kind: AttachKind::Tun,
        mac: Some([0x0e, 0, 0, 0, 0, 1]),
        mtu: Some(1400),
        attached_at: Some(1_700_000_000),
        terms: Arc::new(terms()),
    }
}

fn state(containers: &[Saved]) -> State {
    State {
        last_address: containers.last().map(|saved| saved.address),
        containers: containers.iter().map(|saved| (saved.id.clone(), saved.clone())).collect(),
    }
}

fn store(dir: &tempfile::TempDir) -> Store {
    Store::new(&Root::new(dir.path())).unwrap()
}

#[test]
fn reads_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(store(&dir).load().unwrap(), (State::default(), None));
    let two = state(&[saved("one", 2), saved("two", 3)]);
    store(&dir).save(&two).unwrap();
    assert_eq!(store(&dir).load().unwrap(), (two, None));
}

#[test]
fn any_damage_is_noticed_and_the_copy_used() {
    let dir = tempfile::tempdir().unwrap();
    let two = state(&[saved("one", 2), saved("two", 3)]);
    store(&dir).save(&two).unwrap();
    let file = Root::new(dir.path()).state_file();
    let good = std::fs::read(&file).unwrap();
    for cut in [0, 1, 10, good.len() / 2, good.len() - 3] {
        std::fs::write(&file, &good[..cut]).unwrap();
        let (loaded, problem) = store(&dir).load().unwrap();
        assert_eq!(loaded, two, "cut at {cut}");
        assert!(problem.unwrap().contains("went on with the copy"));
        assert_eq!(std::fs::read(file.with_extension("json.damaged")).unwrap(), &good[..cut]);
        assert!(!file.exists());
    }
}

#[test]
fn without_a_copy_it_begins_anew_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let twice = r#"{"format":1,"boot":"x","last_address":null,"containers":"#;
    std::fs::create_dir_all(dir.path().join("var/lib/sarcenet")).unwrap();
    std::fs::write(Root::new(dir.path()).state_file(), twice).unwrap();
    let (loaded, problem) = store(&dir).load().unwrap();
    assert_eq!(loaded, State::default());
    assert!(problem.unwrap().contains("began without containers"));
}

#[test]
fn files_of_older_agents_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let veth = Saved { kind: AttachKind::Veth, ..saved("one", 2) };
    store(&dir).save(&state(std::slice::from_ref(&veth))).unwrap();
    assert_eq!(store(&dir).load().unwrap().0, state(&[veth]));
    let file = Root::new(dir.path()).state_file();
    let mut document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let container = document["containers"][0].as_object_mut().unwrap();
    assert_eq!(container.remove("kind"), Some("veth".into()));
    for key in ["terms", "network", "mac", "mtu", "attached_at"] {
        assert!(container.remove(key).is_some(), "{key}");
    }
    std::fs::write(&file, document.to_string()).unwrap();
    let bare = Saved {
        network: String::new(),
        mac: None,
        mtu: None,
        attached_at: None,
        terms: Arc::default(),
        ..saved("one", 2)
    };
    assert_eq!(store(&dir).load().unwrap(), (state(&[bare]), None));
}

#[test]
fn an_address_twice_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    store(&dir).save(&state(&[saved("one", 2), saved("two", 2)])).unwrap();
    let (loaded, problem) = store(&dir).load().unwrap();
    assert_eq!(loaded, State::default());
    assert!(problem.unwrap().contains("address 10.255.55.2 belongs to two containers"));
}

#[test]
fn containers_of_an_earlier_boot_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut earlier = store(&dir);
    earlier.boot = "another".into();
    earlier.save(&state(&[saved("one", 7)])).unwrap();
    let (loaded, problem) = store(&dir).load().unwrap();
    assert_eq!((loaded.containers.len(), problem), (0, None));
    assert_eq!(loaded.last_address, Some([10, 255, 55, 7].into()));
}

#[test]
fn a_full_disk_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    // The mount is this thread's alone and ends with it.
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .unwrap();
        let small = path.join("var");
        std::fs::create_dir(&small).unwrap();
        mount(Some("none"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let store = Store::new(&Root::new(&path)).unwrap();
        let one = state(&[saved("one", 2)]);
        store.save(&one).unwrap();
        let ballast = small.join("ballast");
        let filled = std::fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
        assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
        let error = store.save(&state(&[saved("one", 2), saved("two", 3)])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("nothing was changed (make room on that file system"), "{text}");
        assert_eq!(store.load().unwrap(), (one, None));
        let left: Vec<_> = std::fs::read_dir(small.join("lib/sarcenet")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        std::fs::remove_file(&ballast).unwrap();
        store.save(&state(&[saved("one", 2), saved("two", 3)])).unwrap();
        umount2(&small, MntFlags::MNT_DETACH).unwrap();
    })
    .join()
    .unwrap();
}
