//! System calls that have no safe interface, or none without an allocation a call.
#![expect(
    unsafe_code,
    reason = "recvmmsg(2), sendmsg(2) with UDP_SEGMENT, setsockopt(2), sched_setattr(2)"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, c_void};

/// Most slices of one call (`UIO_MAXIOV`).
pub(super) const MAX_SLICES: usize = 1024;

/// Most messages that one [`receive`] brings.
pub(super) const MAX_MESSAGES: usize = 8;

/// Room for one control message that carries an int.
const CONTROL_LEN: usize = 64;

/// One message that was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    /// Bytes in its buffer.
    pub(super) len: u32,
    /// Sender's address.
    pub(super) source: Ipv4Addr,
    /// Length of the datagrams that it is made of (`UDP_GRO`).
    pub(super) stride: Option<u16>,
    /// Whether the buffer was too short for it.
    pub(super) truncated: bool,
}

impl Message {
    /// Nothing.
    pub(super) const EMPTY: Self =
        Self { len: 0, source: Ipv4Addr::UNSPECIFIED, stride: None, truncated: false };
}

#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// Receives up to as many messages as there are `buffers` (at most [`MAX_MESSAGES`]) without
/// waiting. Returns how many came.
///
/// # Errors
/// `WouldBlock` when there is none.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffers: &mut [IoSliceMut<'_>],
    messages: &mut [Message; MAX_MESSAGES],
) -> io::Result<usize> {
    let count = buffers.len().min(MAX_MESSAGES);
    // SAFETY: sockaddr_in, Control and mmsghdr are plain data, for which all zeroes is valid
    // (pointers included: they are null until they are set below).
    let (mut names, mut controls, mut headers): (
        [libc::sockaddr_in; MAX_MESSAGES],
        [MaybeUninit<Control>; MAX_MESSAGES],
        [libc::mmsghdr; MAX_MESSAGES],
    ) = unsafe { (mem::zeroed(), [const { MaybeUninit::uninit() }; MAX_MESSAGES], mem::zeroed()) };
    for (((header, name), control), buffer) in
        headers.iter_mut().zip(&mut names).zip(&mut controls).zip(buffers.iter_mut()).take(count)
    {
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_mut(name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        // IoSliceMut is ABI compatible with iovec (its documentation guarantees it).
        header.msg_iov = ptr::from_mut(buffer).cast();
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LEN as _;
    }
    // SAFETY: the first `count` headers point at a name, a buffer and a control area that live for
    // the whole call and are exclusively borrowed; their lengths are right. No timeout is given.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as c_uint,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    for ((message, header), name) in
        messages.iter_mut().zip(&headers).zip(&names).take(received as usize)
    {
        *message = Message {
            len: header.msg_len,
            source: Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)),
            stride: stride(&header.msg_hdr),
            truncated: header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        };
    }
    Ok(received as usize)
}

/// The `UDP_GRO` control message of a received header.
fn stride(header: &libc::msghdr) -> Option<u16> {
    // SAFETY: the kernel wrote the control area and its length into `header`, whose pointers are
    // still valid here; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside it, and a UDP_GRO message carries
    // one int, which is read unaligned.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_UDP && (*control).cmsg_type == libc::UDP_GRO {
                let value = ptr::read_unaligned(libc::CMSG_DATA(control).cast::<c_int>());
                return u16::try_from(value).ok().filter(|&value| value > 0);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// Sends one message to `destination` without waiting. With `segment`, the kernel (or the device)
/// cuts it into datagrams of so many bytes, the last of which may be shorter.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    destination: SocketAddrV4,
    slices: &[IoSlice<'_>],
    segment: Option<u16>,
) -> io::Result<()> {
    let mut name = libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: destination.port().to_be(),
        sin_addr: libc::in_addr { s_addr: destination.ip().to_bits().to_be() },
        sin_zero: [0; 8],
    };
    let mut control = Control([0; CONTROL_LEN]);
    // SAFETY: msghdr is plain data, for which all zeroes is valid. The control area is aligned for
    // a cmsghdr and longer than CMSG_SPACE of one u16, so CMSG_FIRSTHDR and CMSG_DATA point into it.
    // Everything that the header points at lives for the whole call, and sendmsg only reads it
    // (IoSlice is ABI compatible with iovec, as its documentation guarantees).
    let sent = unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_name = ptr::from_mut(&mut name).cast::<c_void>();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        header.msg_iov = slices.as_ptr().cast_mut().cast();
        header.msg_iovlen = slices.len() as _;
        if let Some(segment) = segment {
            header.msg_control = ptr::from_mut(&mut control).cast();
            header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_UDP;
            (*message).cmsg_type = libc::UDP_SEGMENT;
            (*message).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast::<u16>(), segment);
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a socket option that is one int.
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    set(socket, level, option, &value)
}

/// Throws away whatever is sent to the socket, before it is queued.
pub(super) fn refuse_input(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut refuse =
        libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut refuse };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Leaves a packet socket (of kind `SOCK_DGRAM`) only what leaves this host as UDP over IPv4,
/// without options, from one address to another and its port.
pub(super) fn watch_udp(
    socket: BorrowedFd<'_>,
    from: Ipv4Addr,
    to: SocketAddrV4,
) -> io::Result<()> {
    let load = |size, at: u32| (libc::BPF_LD | libc::BPF_ABS | size, at);
    let checks = [
        (
            load(libc::BPF_B, (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32),
            4, /* outgoing */
        ),
        (load(libc::BPF_B, 0), 0x45),
        (load(libc::BPF_B, 9), libc::IPPROTO_UDP as u32),
        (load(libc::BPF_W, 12), from.to_bits()),
        (load(libc::BPF_W, 16), to.ip().to_bits()),
        (load(libc::BPF_H, 22), u32::from(to.port())),
    ];
    let mut program = Vec::with_capacity(2 * checks.len() + 2);
    let instruction =
        |code: u32, jf: usize, k| libc::sock_filter { code: code as u16, jt: 0, jf: jf as u8, k };
    for (number, ((code, at), value)) in checks.into_iter().enumerate() {
        program.push(instruction(code, 0, at));
        // To the last instruction.
        let skip = 2 * (checks.len() - number - 1) + 1;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, value));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, u32::from(u16::MAX)));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the address and length are those of `value`, which lives for the whole call; what it
    // points at (the instructions of `refuse_input` and `watch_udp`) does, too.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Schedules the calling thread by this policy (`SCHED_OTHER` or `SCHED_BATCH`), with a slice of its
/// own or, if that is zero, the kernel's. Kernels before 6.12 know no slices and leave it out. Its
/// nice value stays.
pub(crate) fn schedule(policy: c_int, slice: Duration) -> io::Result<()> {
    // SAFETY: getpriority takes no pointer, and 0 is the calling thread. It fails for none that
    // is there.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the call reads the attributes, whose size they say; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The policy by which the calling thread is scheduled.
#[cfg(test)]
pub(crate) fn scheduling_policy() -> io::Result<c_int> {
    // SAFETY: the call takes no pointer, and 0 is the calling thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy < 0 { Err(io::Error::last_os_error()) } else { Ok(policy) }
}
