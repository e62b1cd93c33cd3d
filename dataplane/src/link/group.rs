//! Packets that are written to a device in one call.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::uio::writev;

use super::ring;
use super::sys::MAX_SLICES;
use super::{Scratch, recycle};
use crate::packet::{Batch, Packet};

/// Packets that a device takes as they are, and the header in front of each.
pub(super) struct Group<H> {
    /// Where the packets stand in their batch.
    indices: [u16; ring::DEPTH],
    headers: [Option<H>; ring::DEPTH],
    count: usize,
    slices: usize,
}

impl<H: Copy> Default for Group<H> {
    fn default() -> Self {
        Self { indices: [0; ring::DEPTH], headers: [None; ring::DEPTH], count: 0, slices: 0 }
    }
}

impl<H: AsRef<[u8]>> Group<H> {
    /// Adds a packet. False when there is no room.
    pub(super) fn add(
        &mut self,
        batch: &Batch,
        index: u16,
        header: impl FnOnce(&Packet) -> H,
    ) -> bool {
        let packet = batch.packet(usize::from(index));
        let slices = self.slices + 2 + batch.tail(packet).len();
        if self.count == ring::DEPTH || slices > MAX_SLICES {
            return false;
        }
        self.indices[self.count] = index;
        self.headers[self.count] = Some(header(packet));
        self.count += 1;
        self.slices = slices;
        true
    }

    /// Writes them, in one call where there is a ring, and tells `done` what became of each.
    pub(super) fn write(
        &self,
        fd: BorrowedFd<'_>,
        batch: &Batch,
        scratch: &mut Scratch,
        mut done: impl FnMut(u16, nix::Result<()>, &mut Scratch),
    ) {
        let indices = &self.indices[..self.count];
        let mut results = [Ok(()); ring::DEPTH];
        let mut slices = recycle(std::mem::take(&mut scratch.slices));
        let mut ends = [0; ring::DEPTH];
        for ((&index, header), end) in
            indices.iter().zip(self.headers.iter().flatten()).zip(&mut ends)
        {
            let packet = batch.packet(usize::from(index));
            slices.push(IoSlice::new(header.as_ref()));
            slices.push(IoSlice::new(batch.bytes(packet.head)));
            slices.extend(batch.tail(packet).iter().map(|&p| IoSlice::new(batch.bytes(p))));
            *end = slices.len();
        }
        let messages = (0..self.count).map(|number| {
            let start = number.checked_sub(1).map_or(0, |before| ends[before]);
            &slices[start..ends[number]]
        });
        let mut waits = false;
        let mut written = false;
        if let Some(ring) = &mut scratch.ring
            && self.count > 1
        {
            let done = |number: usize, result| {
                waits |= result == Err(Errno::EOPNOTSUPP);
                results[number] = result;
            };
            match ring.write(fd, messages.clone(), done) {
                Ok(()) => written = !waits,
                Err(error) => {
                    tracing::warn!("io_uring: {error}; packets are written one by one from now on");
                    scratch.ring = None;
                }
            }
        }
        if !written {
            for (result, message) in results.iter_mut().zip(messages) {
                // All of them, or those that a ring could not have written without waiting.
                if !waits || *result == Err(Errno::EOPNOTSUPP) {
                    *result = write_one(fd, message);
                }
            }
        }
        scratch.slices = recycle(slices);
        for (&index, result) in indices.iter().zip(results) {
            done(index, result, scratch);
        }
    }
}

/// One call for one packet.
pub(super) fn write_one(fd: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> nix::Result<()> {
    loop {
        match writev(fd, slices) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop),
        }
    }
}
