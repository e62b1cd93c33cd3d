//! The door to a container, or to the cell itself: a TUN device.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::readv;
use sarcenet_tun::{TunDevice, TunError};

use super::virtio::{self, HEADER_LEN};
use super::writer::Writer;
use super::{LinkCounters, MAX_BATCH_BYTES, Received, Report, Scratch};
use crate::packet::{Batch, Piece, Via};

/// A TUN device that is read and written without waiting. One read or write carries one packet,
/// or one super-packet.
pub struct TunLink {
    fd: OwnedFd,
    via: Via,
    mtu: u16,
    writer: Writer,
    counters: Arc<LinkCounters>,
}

/// Why a descriptor could not become a link.
#[derive(Debug, thiserror::Error)]
pub enum TunLinkError {
    /// It is no device that we can use.
    #[error(transparent)]
    Device(#[from] TunError),
    /// It could not be set up.
    #[error("setting a TUN descriptor to non-blocking: {0}")]
    NonBlocking(io::Error),
}

impl TunLink {
    /// Makes a link of a TUN descriptor that was opened by [`TunDevice::open`], maybe in another
    /// process. `mtu` is the largest packet that is written to it, in bytes.
    ///
    /// # Errors
    /// [`TunLinkError`].
    pub fn new(fd: OwnedFd, mtu: u16, via: Via) -> Result<Self, TunLinkError> {
        Self::with_counters(fd, mtu, via, Arc::default())
    }

    /// The same, counting on where a link before it stopped.
    ///
    /// # Errors
    /// [`TunLinkError`].
    pub fn with_counters(
        fd: OwnedFd,
        mtu: u16,
        via: Via,
        counters: Arc<LinkCounters>,
    ) -> Result<Self, TunLinkError> {
        let device = TunDevice::from_fd(fd)?;
        let writer = Writer::ip(device.features());
        let fd = device.into_fd();
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|errno| TunLinkError::NonBlocking(errno.into()))?;
        Ok(Self { fd, via, mtu, writer, counters })
    }

    /// Which door this is.
    pub fn via(&self) -> Via {
        self.via
    }

    /// Largest packet that is written to it, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What it counted.
    pub fn counters(&self) -> &Arc<LinkCounters> {
        &self.counters
    }

    /// The mode it really has, as in `tun vnet-hdr csum tso uso`, or that its namespace is gone.
    pub fn mode(&self) -> String {
        if self.writer.is_gone() {
            return "tun gone".to_owned();
        }
        format!("tun {}", self.writer.features())
    }

    /// Reads up to `max` packets into the batch.
    ///
    /// # Errors
    /// The device is gone, with its namespace (`EBADFD`) or by itself: nothing will ever come
    /// again.
    pub fn receive(
        &self,
        batch: &mut Batch,
        max: usize,
        report: &mut Report,
    ) -> io::Result<Received> {
        let mut received = Received::default();
        let (mut bytes, mut errors) = (0, 0);
        let mut failed = None;
        while received.packets < max && batch.room() > 0 && bytes < MAX_BATCH_BYTES {
            let Some(buffer) = batch.take_buffer() else { break };
            let mut header = [0; HEADER_LEN];
            let mut slices =
                [IoSliceMut::new(&mut header), IoSliceMut::new(batch.bytes_mut(buffer))];
            let n = match readv(&self.fd, &mut slices) {
                Ok(n) => n,
                Err(errno) => {
                    batch.untake_buffer();
                    match errno {
                        Errno::EINTR => continue,
                        Errno::EAGAIN => received.drained = true,
                        errno => failed = Some(errno),
                    }
                    break;
                }
            };
            let piece = Piece { len: n.saturating_sub(HEADER_LEN) as u32, ..buffer };
            bytes += u64::from(piece.len);
            match virtio::decode(header, batch.bytes(piece), 0) {
                Ok(offload) => {
                    batch.push(piece, offload, self.via);
                    received.packets += 1;
                }
                Err(reason) => {
                    batch.untake_buffer();
                    report.dropped(reason, 1);
                    errors += 1;
                }
            }
        }
        self.counters.received(received.packets as u64 + errors, bytes, errors);
        match failed {
            None => Ok(received),
            // A device that is down for now says so with EIO; one that is gone stays gone.
            Some(Errno::EIO) => Ok(Received { drained: true, ..received }),
            Some(errno) => {
                self.writer.set_gone();
                Err(errno.into())
            }
        }
    }

    /// Writes packets of the batch whose verdict is this door, in the given order. What fails is
    /// reported; returns how many were written.
    pub fn transmit(
        &self,
        batch: &Batch,
        indices: impl IntoIterator<Item = u16>,
        scratch: &mut Scratch,
        report: &mut Report,
    ) -> usize {
        self.writer.transmit(self.fd.as_fd(), batch, indices, scratch, report, &self.counters)
    }

    /// Makes it a link to a device without offloads.
    #[cfg(test)]
    pub(super) fn refuse_offloads(&self) {
        self.writer.refuse_offloads();
    }
}

impl AsFd for TunLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
