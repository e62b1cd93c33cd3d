//! The receiving half of a queue: its receive and fill rings.
#![expect(unsafe_code, reason = "frames lie in memory that the kernel writes, and xsk-rs says so")]

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};
use xsk_rs::{FillQueue, FrameDesc, RxQueue, Umem};

use super::WINDOW;

/// What lies in the receive ring.
pub(in crate::link::xdp) enum Next {
    /// A packet: the descriptors of its frames, to be given to [`Receiver::bytes`].
    Packet(Range<usize>),
    /// A packet of more frames than any can have; it was thrown away.
    Endless,
    /// Nothing more for now.
    Empty,
}

/// The receiving half of a queue.
pub(in crate::link::xdp) struct Receiver {
    ring: RxQueue,
    fill: FillQueue,
    umem: Umem,
    /// Descriptors that were taken out of the ring; those before `start` are done with.
    window: Box<[FrameDesc]>,
    start: usize,
    end: usize,
    /// Whether there were more frames than were read, when it was looked at last.
    pub(in crate::link::xdp) behind: bool,
    /// Frames that the kernel had thrown away when it was asked last.
    lost: u64,
    busy: Option<BusyPoll>,
}

/// Polling a driver, in place of waiting for its interrupts.
struct BusyPoll {
    /// How long after the last frame.
    period: Duration,
    /// When that is over.
    end: Instant,
}

impl Receiver {
    /// Gives the kernel `frames` to receive into.
    pub(super) fn new(ring: RxQueue, fill: FillQueue, umem: Umem, frames: &[FrameDesc]) -> Self {
        let window = vec![FrameDesc::default(); WINDOW].into_boxed_slice();
        let mut receiver =
            Self { ring, fill, umem, window, start: 0, end: 0, behind: false, lost: 0, busy: None };
        receiver.give(frames);
        receiver
    }

    /// The next packet that has arrived whole.
    pub(in crate::link::xdp) fn next(&mut self) -> Next {
        loop {
            let waiting = &self.window[self.start..self.end];
            if let Some(last) = waiting.iter().position(|frame| !frame.has_more_frames()) {
                let packet = self.start..self.start + last + 1;
                self.start = packet.end;
                return Next::Packet(packet);
            }
            self.release();
            if self.end == self.window.len() {
                self.start = self.end;
                self.release();
                return Next::Endless;
            }
            // SAFETY: what comes out of the ring are frames of `umem`, with which it was made.
            let taken = unsafe { self.ring.consume(&mut self.window[self.end..]) };
            if taken == 0 {
                return Next::Empty;
            }
            self.end += taken;
        }
    }

    /// The frames of a packet that [`Receiver::next`] returned last, in order.
    pub(in crate::link::xdp) fn bytes(&self, packet: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.window[packet].iter().map(|frame| {
            // SAFETY: the frame came out of the ring and has not been given back, so it is ours;
            // nobody writes to it.
            unsafe { self.umem.data(frame) }.contents()
        })
    }

    /// Gives the frames of all packets that were returned back to the kernel.
    pub(in crate::link::xdp) fn release(&mut self) {
        let done = std::mem::take(&mut self.start);
        self.produce(0..done);
        self.window.copy_within(done..self.end, 0);
        self.end -= done;
    }

    /// Tells the driver that there are frames again, if it waits to be told.
    pub(in crate::link::xdp) fn wake(&mut self) {
        if self.fill.needs_wakeup() {
            // What the kernel says is seen by who reads: this only lets it work.
            let _ = self.ring.poll(0);
        }
    }

    /// Polls the driver from now on, for so long after each frame.
    pub(super) fn poll_busily(&mut self, period: Duration) {
        self.busy = Some(BusyPoll { period, end: Instant::now() });
    }

    /// Has the driver look for frames, if it is polled. `found` says whether there were any since
    /// the last call. Returns whether to come again without being woken.
    pub(in crate::link::xdp) fn poll(&mut self, found: bool) -> bool {
        let Some(busy) = &mut self.busy else { return false };
        let now = Instant::now();
        if found {
            busy.end = now + busy.period;
        }
        // Nothing is received by it. What the kernel has to say about the interface is asked for
        // elsewhere.
        let _ = recv(self.ring.fd().as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
        now < busy.end
    }

    /// Places of the fill ring that no frame has.
    #[cfg(test)]
    pub(in crate::link::xdp) fn free_places(&mut self) -> u32 {
        self.fill.nb_free_exact()
    }

    fn produce(&mut self, frames: Range<usize>) {
        // SAFETY: the frames are of `umem` and were taken out of the receive ring; nothing refers
        // to them any more.
        let taken = unsafe { self.fill.produce(&self.window[frames.clone()]) };
        debug_assert_eq!(taken, frames.len(), "the fill ring has a place for every frame");
    }

    fn give(&mut self, frames: &[FrameDesc]) {
        // SAFETY: the frames are new ones of `umem`.
        let taken = unsafe { self.fill.produce(frames) };
        debug_assert_eq!(taken, frames.len(), "the fill ring has a place for every frame");
    }

    /// Frames that the kernel has thrown away since the last call, because the ring was full or
    /// for want of a frame, and for other reasons (`XDP_STATISTICS`). What the driver throws away
    /// in zero-copy mode, the card counts.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(in crate::link::xdp) fn take_lost(&mut self) -> io::Result<u64> {
        let statistics = self.ring.fd().xdp_statistics()?;
        // A frame lost for want of another is among those dropped (`xsk_rcv`, `net/xdp/xsk.c`).
        let lost = statistics.rx_ring_full() + statistics.rx_dropped();
        let before = std::mem::replace(&mut self.lost, lost);
        Ok(lost.saturating_sub(before))
    }
}
