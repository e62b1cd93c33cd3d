//! What tests with real links share.

pub(crate) mod namespace;
pub(crate) mod traffic;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use namespace::Namespace;

/// Makes a TUN `eth0` with this address and MTU, and routes everything through it, as a container
/// has it. Returns its descriptor.
pub(crate) fn attach(namespace: &Namespace, address: Ipv4Addr, mtu: u16) -> OwnedFd {
    let fd = namespace.tun("eth0", mtu);
    namespace.ip(&format!("addr add {address}/32 dev eth0"));
    namespace.ip("route add default dev eth0");
    fd
}

/// Waits until something is so. The limit only ends a test that has failed: the kernel clears
/// namespaces away one after the other, in a thread of its own, and a file that was closed stays
/// open for as long as another test has forked a process that has not begun its program yet.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_mins(1), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that say where in the stream they are, so that a lost, doubled or moved one shows.
pub(crate) fn pattern(at: u64, buffer: &mut [u8]) {
    for (word, chunk) in (at / 8..).zip(buffer.chunks_mut(8)) {
        let bytes = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}
