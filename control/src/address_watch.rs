//! Noticing that the cell's own addresses have changed, so that containers cannot reach the cell by
//! one that it did not have before.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tracing::warn;

use crate::agent::Agent;

/// Changes of IPv4 addresses (`RTMGRP_IPV4_IFADDR` of `<linux/rtnetlink.h>`).
const IPV4_ADDRESSES: u32 = 0x10;

/// A running watch; ends when dropped.
#[derive(Debug)]
pub struct AddressWatch {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl AddressWatch {
    /// Calls [`Agent::addresses_changed`] at first and whenever addresses of the calling thread's
    /// network namespace have changed.
    pub fn start(agent: Arc<Agent>) -> std::io::Result<Self> {
        let messages = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        bind(messages.as_raw_fd(), &NetlinkAddr::new(0, IPV4_ADDRESSES))?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("addresses".into())
            .spawn(move || run(&agent, &messages, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(agent: &Agent, messages: &OwnedFd, stop: &EventFd) {
    loop {
        // What the messages say does not matter: all addresses are looked at anew.
        agent.addresses_changed();
        let mut fds = [
            PollFd::new(messages.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => {
                warn!("the cell's addresses are not watched any more: {e}");
                return;
            }
        }
        if fds[1].any() == Some(true) {
            return;
        }
        let mut buffer = [0; 8192];
        // Also after messages were lost (ENOBUFS), which the first call says.
        while !matches!(
            recv(messages.as_raw_fd(), &mut buffer, MsgFlags::empty()),
            Ok(0) | Err(nix::Error::EAGAIN)
        ) {}
    }
}
