//! Receiving frames from a packet socket.
#![expect(unsafe_code, reason = "recvmmsg(2) with scattered buffers and control messages")]

use std::io::IoSliceMut;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::c_uint;
use nix::errno::Errno;

use super::super::sys::MAX_MESSAGES;
use crate::link::virtio::HEADER_LEN;
use crate::packet::{Batch, Piece};
use crate::wire::tunnel::ETHERNET_HEADER_LEN;

/// Bytes in front of a packet: `virtio_net_hdr` and Ethernet header.
pub(super) const FRONT_LEN: usize = HEADER_LEN + ETHERNET_HEADER_LEN;

/// What stands in front of a packet.
pub(super) type Front = [u8; FRONT_LEN];

/// One frame that was received.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Message {
    /// Bytes in front and buffer together.
    pub(super) len: u32,
    /// Whether the buffer was too short for it.
    pub(super) truncated: bool,
    /// Whether it had a VLAN tag, which the kernel has taken out of it.
    pub(super) tagged: bool,
}

/// Room for one `tpacket_auxdata`.
#[repr(C, align(8))]
struct Control([u8; 64]);

const _: () = {
    // SAFETY: CMSG_SPACE is arithmetic.
    let needed = unsafe { libc::CMSG_SPACE(size_of::<libc::tpacket_auxdata>() as u32) };
    assert!(needed as usize <= size_of::<Control>());
};

/// Receives up to as many frames as there are `buffers` (at most [`MAX_MESSAGES`]) without waiting,
/// the beginning of each into its front and the rest into its buffer. Returns how many came.
///
/// # Errors
/// `EAGAIN` when there is none.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    batch: &mut Batch,
    buffers: &[Piece],
    fronts: &mut [Front; MAX_MESSAGES],
    messages: &mut [Message; MAX_MESSAGES],
) -> Result<usize, Errno> {
    let count = buffers.len().min(MAX_MESSAGES);
    let mut slices =
        [const { [const { MaybeUninit::<IoSliceMut<'_>>::uninit() }; 2] }; MAX_MESSAGES];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MAX_MESSAGES];
    // SAFETY: mmsghdr is plain data, for which all zeroes is valid (null pointers included).
    let mut headers: [libc::mmsghdr; MAX_MESSAGES] = unsafe { mem::zeroed() };
    let mut parts = headers.iter_mut().zip(&mut controls).zip(&mut slices).zip(fronts);
    batch.each_bytes_mut(buffers.iter().take(count).copied(), |bytes| {
        let Some((((header, control), slices), front)) = parts.next() else { return };
        slices[0].write(IoSliceMut::new(front));
        slices[1].write(IoSliceMut::new(bytes));
        let header = &mut header.msg_hdr;
        // IoSliceMut is ABI compatible with iovec (its documentation guarantees it).
        header.msg_iov = slices.as_mut_ptr().cast();
        header.msg_iovlen = slices.len() as _;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control>() as _;
    });
    let received = loop {
        // SAFETY: the first `count` headers point at two initialised slices, which borrow their
        // bytes exclusively, and at a control area, all of which live for the whole call. No
        // timeout is given.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        match Errno::result(received) {
            Err(Errno::EINTR) => {}
            result => break result? as usize,
        }
    };
    for (message, header) in messages.iter_mut().zip(&headers).take(received) {
        let flags = header.msg_hdr.msg_flags;
        *message = Message {
            len: header.msg_len,
            truncated: flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
            tagged: status(&header.msg_hdr) & libc::TP_STATUS_VLAN_VALID != 0,
        };
    }
    Ok(received)
}

/// `tp_status` of the `PACKET_AUXDATA` control message of a received header.
fn status(header: &libc::msghdr) -> u32 {
    // SAFETY: the kernel wrote the control area and its length into `header`, whose pointers are
    // still valid here; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside it, and a PACKET_AUXDATA message
    // carries one tpacket_auxdata, which is read unaligned.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_PACKET
                && (*control).cmsg_type == libc::PACKET_AUXDATA
            {
                let data = libc::CMSG_DATA(control);
                return ptr::read_unaligned(data.cast::<libc::tpacket_auxdata>()).tp_status;
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    0
}
