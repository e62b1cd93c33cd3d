//! Which links a worker has, and which of them it reads.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use sarcenet_dataplane_api::PortId;

use super::super::{Command, Order, reader_of};
use super::{HOST, UPLINK, Worker};
use crate::link::container::ContainerLink;
use crate::link::uplink::Uplink;

impl Worker {
    /// Follows all orders. Returns whether to go on.
    pub(super) fn obey(&mut self) -> bool {
        while let Ok(Command { order, done }) = self.orders.try_recv() {
            match order {
                Order::Tun { port, link, read } => self.set_tun(port, Some(link), read),
                Order::NoTun { port } => self.set_tun(port, None, false),
                Order::Uplink(uplink) => self.set_uplink(uplink),
                Order::Stop => return false,
            }
            drop(done);
        }
        true
    }

    /// Takes an uplink in place of the one before, and reads its own share of the queues.
    fn set_uplink(&mut self, uplink: Uplink) {
        if let Some(old) = self.uplink.take() {
            for (queue, fd) in old.fds().enumerate() {
                self.forget(Token(UPLINK.0 + queue), fd);
            }
        }
        let (worker, workers) = (usize::from(self.pipeline.worker()), self.config.count.max(1));
        for (queue, fd) in uplink.fds().enumerate() {
            if reader_of(queue, workers) == worker {
                self.watch(Token(UPLINK.0 + queue), fd);
            }
        }
        self.uplink = Some(uplink);
    }

    fn set_tun(&mut self, port: Option<PortId>, link: Option<Arc<ContainerLink>>, read: bool) {
        let token = port.map_or(HOST, |PortId(port)| Token(usize::from(port)));
        let place = if token == HOST {
            &mut self.host
        } else {
            if self.containers.len() <= token.0 {
                self.containers.resize(token.0 + 1, None);
            }
            &mut self.containers[token.0]
        };
        let old = std::mem::replace(place, link.clone());
        if let Some(old) = old {
            self.forget(token, old.as_fd());
        }
        if let Some(link) = link
            && read
        {
            self.watch(token, link.as_fd());
        }
    }

    /// Begins to read a link.
    fn watch(&mut self, token: Token, fd: BorrowedFd<'_>) {
        let registry = self.poll.registry();
        match registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => self.reads.push(token),
            Err(error) => tracing::error!("watching {}: {error}", Door(token)),
        }
    }

    /// Ends to read a link, if this worker did.
    fn forget(&mut self, token: Token, fd: BorrowedFd<'_>) {
        let Some(at) = self.reads.iter().position(|&read| read == token) else { return };
        self.reads.swap_remove(at);
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd.as_raw_fd())) {
            tracing::error!("no longer watching {}: {error}", Door(token));
        }
    }

    /// Leaves a link, or a queue of the uplink, alone whose device is gone. It stays, for its
    /// counters and for the status, until it is removed.
    pub(super) fn park(&mut self, token: Token, error: &io::Error) {
        tracing::info!("the device of {} is gone: {error}", Door(token));
        if token >= UPLINK {
            let uplink = self.uplink.clone();
            if let Some(fd) = uplink.iter().flat_map(Uplink::fds).nth(token.0 - UPLINK.0) {
                self.forget(token, fd);
            }
            return;
        }
        let link = if token == HOST { self.host.clone() } else { self.containers[token.0].clone() };
        if let Some(link) = link {
            self.forget(token, link.as_fd());
        }
    }
}

/// A link, as messages name it.
struct Door(Token);

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            HOST => f.write_str("the host link"),
            door if door >= UPLINK => write!(f, "queue {} of the uplink", door.0 - UPLINK.0),
            Token(port) => write!(f, "container port {port}"),
        }
    }
}
