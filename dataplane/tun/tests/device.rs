//! Real devices, each test in a network namespace of its own. Needs root.

use std::os::fd::AsFd;

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
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = file.as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(TunDevice::from_fd(fd), Err(TunError::NotTun(_))));
    let unattached = std::fs::File::open("/dev/net/tun").unwrap();
    assert!(matches!(TunDevice::from_fd(unattached.into()), Err(TunError::NotTun(_))));
}

#[test]
fn impossible_names_are_refused() {
    for name in ["", "..", "a/b", "eth%d", "with space", "sixteen-bytes-ab"] {
        assert!(matches!(TunDevice::open(name), Err(TunError::BadName(_))), "{name}");
    }
}
