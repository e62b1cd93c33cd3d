//! Real devices, each test in a network namespace of its own. Needs root.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use sarcenet_tun::{Features, TunDevice, TunError};

/// Runs `test` on a thread in a fresh network namespace, which goes with the thread.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need CAP_SYS_ADMIN");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn exists(name: &str) -> bool {
    // The thread's own view: /sys shows the namespace of whoever mounted it.
    std::fs::read_to_string("/proc/thread-self/net/dev")
        .unwrap()
        .lines()
        .any(|line| line.trim_start().starts_with(&format!("{name}:")))
}

#[test]
fn opens_with_all_offloads() {
    in_namespace(|| {
        let device = TunDevice::open("eth0").unwrap();
        assert_eq!(device.name(), "eth0");
        assert_eq!(device.features(), Features { csum: true, tso: true, uso: true });
        assert_eq!(device.features().to_string(), "vnet-hdr csum tso uso");
        drop(device);
        assert!(!exists("eth0"), "a device that is not persistent goes with its descriptor");
    });
}

#[test]
fn persistent_device_is_attached_to_again() {
    in_namespace(|| {
        let device = TunDevice::open("sarcenet0").unwrap();
        device.persist(true).unwrap();
        drop(device);
        assert!(exists("sarcenet0"));
        let again = TunDevice::open("sarcenet0").unwrap();
        assert!(again.features().tso);
        again.persist(false).unwrap();
        drop(again);
        assert!(!exists("sarcenet0"));
    });
}

#[test]
fn a_descriptor_is_adopted_in_another_namespace() {
    in_namespace(|| {
        let fd = TunDevice::open("eth0").unwrap().into_fd();
        in_namespace(move || {
            let device = TunDevice::from_fd(fd).unwrap();
            assert_eq!(device.name(), "eth0");
            assert!(device.features().uso);
        });
    });
}

#[test]
fn created_devices_get_names_of_their_own() {
    in_namespace(|| {
        let devices = [(), ()].map(|()| TunDevice::create("sn-").unwrap());
        assert_eq!(devices.each_ref().map(TunDevice::name), ["sn-0", "sn-1"]);
        let inode = |file: File| file.metadata().unwrap().ino();
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        let namespace = devices[0].namespace().unwrap();
        assert_eq!(inode(File::from(namespace)), inode(own));
    });
}

#[test]
fn a_device_that_is_gone_is_told_from_other_errors() {
    in_namespace(|| {
        let device = TunDevice::open("eth0").unwrap();
        let removed = Command::new("ip").args(["link", "del", "eth0"]).status().unwrap();
        assert!(removed.success());
        assert!(device.namespace().unwrap_err().is_gone());
        assert!(TunDevice::from_fd(device.into_fd()).unwrap_err().is_gone());
        let other = File::open("/dev/null").unwrap();
        assert!(!TunDevice::from_fd(other.into()).unwrap_err().is_gone());
        assert!(!TunDevice::open("lo").unwrap_err().is_gone());
    });
}

#[test]
fn a_busy_device_is_refused() {
    in_namespace(|| {
        let first = TunDevice::open("eth0").unwrap();
        let error = TunDevice::open("eth0").unwrap_err();
        assert!(error.to_string().contains("another process holds it"), "{error}");
        drop(first);
    });
}

#[test]
fn other_descriptors_are_refused() {
    let file = File::open("/dev/null").unwrap();
    let fd = file.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(TunDevice::from_fd(fd), Err(TunError::NotTun(_))));
    let unattached = File::open("/dev/net/tun").unwrap();
    assert!(matches!(TunDevice::from_fd(unattached.into()), Err(TunError::NotTun(_))));
}

#[test]
fn impossible_names_are_refused() {
    for name in ["", "..", "a/b", "eth%d", "with space", "sixteen-bytes-ab"] {
        assert!(matches!(TunDevice::open(name), Err(TunError::BadName(_))), "{name}");
        assert!(matches!(TunDevice::create(name), Err(TunError::BadName(_))), "{name}");
    }
}
