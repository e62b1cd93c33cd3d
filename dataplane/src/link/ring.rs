//! Many writes in one system call (io_uring), all of them done when it returns.
//!
//! A write to a TUN device delivers the packet and wakes its receiver, who takes the processor as
//! soon as the call returns. Writes that are given to the kernel together return once, so a batch
//! is delivered before anybody is preempted.
#![expect(unsafe_code, reason = "io_uring takes addresses of memory that must outlive the request")]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;

/// Most writes in one call.
pub(super) const DEPTH: usize = 32;

/// A worker's ring. It is used by the thread that made it only.
pub(super) struct WriteRing(IoUring);

impl WriteRing {
    /// A ring, if the kernel has them and lets us have one (it may be built without, and
    /// `kernel.io_uring_disabled` or a seccomp filter may forbid it).
    pub(super) fn new() -> io::Result<Self> {
        IoUring::builder().setup_coop_taskrun().build(DEPTH as u32).map(Self)
    }

    /// A ring that the kernel refuses to run (`IORING_SETUP_R_DISABLED`: EBADFD).
    #[cfg(test)]
    pub(super) fn disabled() -> io::Result<Self> {
        IoUring::builder().setup_r_disabled().build(DEPTH as u32).map(Self)
    }

    /// Writes each message, given as its slices, to `fd` in order, and tells `done` what became of
    /// it: EAGAIN where there was no room, EOPNOTSUPP where the kernel cannot write to `fd` without
    /// waiting. At most [`DEPTH`] messages.
    ///
    /// # Errors
    /// The ring cannot be used; then no `done` was called and nothing was written.
    pub(super) fn write<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        messages: impl ExactSizeIterator<Item = &'a [IoSlice<'a>]>,
        mut done: impl FnMut(usize, Result<(), Errno>),
    ) -> io::Result<()> {
        let count = messages.len();
        assert!(count <= DEPTH, "more writes than the ring has places");
        for (number, slices) in messages.enumerate() {
            // IoSlice is ABI compatible with iovec, as its documentation guarantees.
            let write = opcode::Writev::new(
                types::Fd(fd.as_raw_fd()),
                slices.as_ptr().cast(),
                slices.len() as u32,
            )
            // A full device is to say so. O_NONBLOCK is not enough: of a file that can be waited
            // for, io_uring waits all the same (`io_rw_init_file`, `io_uring/rw.c`), and the worker
            // with it, for as long as the container likes.
            .rw_flags(libc::RWF_NOWAIT);
            // SAFETY: the slices and what they point at are borrowed until this function returns,
            // and it returns only after the completion of every request that was submitted.
            let pushed =
                unsafe { self.0.submission().push(&write.build().user_data(number as u64)) };
            assert!(pushed.is_ok(), "the ring has room for DEPTH writes and was empty");
        }
        let mut completed = 0;
        while completed < count {
            match self.0.submit_and_wait(count - completed) {
                Err(error)
                    if !matches!(
                        error.raw_os_error(),
                        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                    ) =>
                {
                    // Nothing has gone in: these errors are about the ring, not about a request.
                    assert!(completed == 0, "io_uring failed between two completions: {error}");
                    return Err(error);
                }
                _ => {}
            }
            for completion in self.0.completion() {
                let result = match completion.result() {
                    negative @ ..0 => Err(Errno::from_raw(-negative)),
                    _ => Ok(()),
                };
                done(completion.user_data() as usize, result);
                completed += 1;
            }
        }
        Ok(())
    }
}
