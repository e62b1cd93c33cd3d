//! What attaching and detaching leave behind.

use super::*;
use crate::process::drop_privileges;

/// What `tc` shows of the filters of an interface.
fn filters(namespace: &Namespace, interface: &'static str) -> String {
    let output = namespace.run(move || {
        Command::new("tc").args(["filter", "show", "dev", interface, "ingress"]).output()
    });
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn it_outlives_its_process_and_is_replaced_by_the_next() {
    let site = Site::new();
    let first = site.divert();
    assert_eq!(first.interface(), "up0");
    assert_eq!(first.settings(), &settings());
    let [up0, lo] = first.numbers;
    assert!(first.is_in_force_in(&site));
    drop(first);
    assert_eq!([site.attached("up0"), site.attached("lo")], [Some(up0), Some(lo)]);

    let second = site.divert();
    assert_ne!(second.numbers, [up0, lo]);
    assert!(second.is_in_force_in(&site));
    let shown = filters(&site.cell, "up0");
    assert_eq!(shown.matches("handle 0x53415243").count(), 1, "{shown}");

    site.cell.run(|| detach().unwrap());
    assert_eq!([site.attached("up0"), site.attached("lo")], [None, None]);
    assert!(!second.is_in_force_in(&site));
    site.cell.run(|| detach().unwrap());
}

impl Divert {
    fn is_in_force_in(&self, site: &Site) -> bool {
        std::thread::scope(|scope| {
            let id = site.cell.id;
            let enter = move || {
                let path = format!("/proc/self/task/{id}/ns/net");
                let namespace = std::fs::File::open(path).unwrap();
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            };
            scope
                .spawn(move || {
                    enter();
                    self.is_in_force()
                })
                .join()
                .unwrap()
        })
    }
}

#[test]
fn filters_of_others_stay() {
    let site = Site::new();
    // Both kinds of queueing discipline that filters can hang on where packets come in.
    site.cell.command("tc qdisc add dev up0 ingress");
    site.cell.command("tc qdisc add dev lo clsact");
    for interface in ["up0", "lo"] {
        let (first, last) = ("prio 5", "prio 49152");
        for priority in [first, last] {
            site.cell.command(&format!(
                "tc filter add dev {interface} ingress {priority} protocol ip u32 match ip dport 22 \
                 0xffff classid 1:1"
            ));
        }
    }
    let others = [filters(&site.cell, "up0"), filters(&site.cell, "lo")];
    assert!(others.iter().all(|shown| shown.matches("match").count() == 2), "{others:?}");
    let divert = site.divert();
    drop(divert);
    let _again = site.divert();
    for interface in ["up0", "lo"] {
        let shown = filters(&site.cell, interface);
        let order = ["pref 5 ", "pref 21313 ", "pref 49152 "].map(|what| shown.find(what).unwrap());
        assert!(order.is_sorted(), "{shown}");
    }
    site.cell.run(|| detach().unwrap());
    assert_eq!([filters(&site.cell, "up0"), filters(&site.cell, "lo")], others);
}

/// With the rights that the dataplane keeps (`process.rs`).
#[test]
fn a_dataplane_without_privileges_can_do_all_of_it() {
    let site = Site::new();
    site.cell.run(|| {
        drop_privileges().unwrap();
        let divert = Divert::attach(settings(), &TakenPorts::default()).unwrap();
        divert.set_ports(&TakenPorts { tcp: vec![SNAT], udp: Vec::new() }).unwrap();
        assert!(divert.is_in_force());
        detach().unwrap();
        assert!(!divert.is_in_force());
    });
}

#[test]
fn it_follows_the_underlay_address_and_the_tun() {
    let mut site = Site::new();
    let first = site.divert();
    site.cell.ip("link add up1 type veth peer name up2");
    site.cell.ip(&format!("addr del {}/24 dev up0", CELLS[0]));
    site.cell.ip(&format!("addr add {}/24 dev up1", CELLS[0]));
    assert!(!first.is_in_force_in(&site));
    let second = site.divert();
    assert_eq!(second.interface(), "up1");
    assert_eq!((site.attached("up0"), site.attached("up1")), (None, Some(second.numbers[0])));

    drop(site.tun.take());
    until("the TUN is gone", || !second.is_in_force_in(&site));
    assert!(matches!(
        site.try_divert(),
        Err(DivertError::Interface { interface, .. }) if interface == "sarcenet0"
    ));
    let _tun = site.cell.tun("sarcenet0", 1450);
    assert!(!second.is_in_force_in(&site), "the TUN is another one");
    assert!(site.divert().is_in_force_in(&site));

    site.cell.command("tc qdisc del dev lo clsact");
    assert!(!second.is_in_force_in(&site), "somebody took the filters away");
    let third = site.divert();
    assert!(third.is_in_force_in(&site));

    site.cell.ip("link del up1");
    assert!(!third.is_in_force_in(&site));
    let error = site.try_divert().err().unwrap();
    assert!(matches!(error, DivertError::NoInterface(address) if address == CELLS[0]), "{error}");
    site.cell.run(|| detach().unwrap());
    assert_eq!(site.attached("lo"), None);
}

#[test]
fn a_namespace_without_any_of_it_has_nothing_to_detach() {
    Namespace::new().run(|| detach().unwrap());
}

#[test]
fn errors_say_what_to_do() {
    let site = Site::new();
    let said = site.cell.run(|| {
        caps::clear(None, caps::CapSet::Effective).unwrap();
        let load = Divert::attach(settings(), &TakenPorts::default()).err().unwrap().to_string();
        let program = Hook { interface: LOOPBACK };
        let netlink = program.attach(&std::fs::File::open("/dev/null").unwrap().into());
        (load, netlink.unwrap_err().raw_os_error())
    });
    assert!(said.0.contains("CAP_BPF"), "{}", said.0);
    assert_eq!(said.1, Some(libc::EPERM));
}
