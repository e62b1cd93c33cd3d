use std::{
    fs::{self, File},
    io::{IoSlice, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::PermissionsExt,
    },
    thread,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::*;
use crate::codec::{MAX_FRAME, encode};

/// Sends raw bytes and descriptors, as no well-behaved peer would.
fn send_raw(connection: &Connection, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let fds: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        connection.as_fd().as_raw_fd(),
        &[IoSlice::new(bytes)],
        if fds.is_empty() { &[] } else { &rights },
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}

/// A pipe whose reading end tells when every copy of its writing end is closed.
fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    std::io::pipe().unwrap()
}

#[test]
fn messages_keep_their_bounds_and_descriptors() {
    let (a, b) = Connection::pair().unwrap();
    let (mut reader, writer) = pipe();
    a.send(&"first", &[writer.as_fd()]).unwrap();
    a.send(&"second", &[]).unwrap();
    drop(writer);

    let (text, mut fds) = b.recv::<String>().unwrap().unwrap();
    assert_eq!((text.as_str(), fds.len()), ("first", 1));
    let flags = nix::fcntl::fcntl(&fds[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & nix::libc::FD_CLOEXEC, nix::libc::FD_CLOEXEC);
    File::from(fds.remove(0)).write_all(b"through").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");

    let (text, fds) = b.recv::<String>().unwrap().unwrap();
    assert_eq!((text.as_str(), fds.len()), ("second", 0));
    drop(a);
    assert!(b.recv::<String>().unwrap().is_none());
    assert!(matches!(b.send(&"late", &[]), Err(TransportError::Closed)));
}

#[test]
fn as_many_descriptors_as_allowed() {
    let (a, b) = Connection::pair().unwrap();
    let (_reader, writer) = pipe();
    a.send(&1_u8, &[writer.as_fd(); MAX_FDS]).unwrap();
    assert_eq!(b.recv::<u8>().unwrap().unwrap().1.len(), MAX_FDS);
    let refused = a.send(&1_u8, &[writer.as_fd(); MAX_FDS + 1]);
    assert!(matches!(refused, Err(TransportError::TooManyDescriptors { count: 65 })));
}

#[test]
fn descriptors_of_bad_packets_are_closed() {
    let (a, b) = Connection::pair().unwrap();
    let (mut reader, writer) = pipe();
    let good = encode(&7_u64).unwrap();
    let cases: [(&[u8], usize); 3] =
        [(&good, MAX_FDS + 1), (&vec![0; MAX_FRAME + 1], 1), (&[0xff; 9], 2)];
    for (bytes, fds) in cases {
        send_raw(&a, bytes, &vec![writer.as_fd(); fds]);
    }
    drop(writer);

    assert!(matches!(b.recv::<u64>(), Err(TransportError::TooManyDescriptors { count: 65 })));
    assert!(matches!(b.recv::<u64>(), Err(TransportError::FrameTooLong)));
    assert!(matches!(b.recv::<u64>(), Err(TransportError::Codec(_))));
    // End of file: nobody holds a writing end any more.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    // The connection is still in step.
    send_raw(&a, &good, &[]);
    assert_eq!(b.recv::<u64>().unwrap().unwrap().0, 7);
}

#[test]
fn waiting_ends_with_the_timeout_or_with_shutdown() {
    let (a, b) = Connection::pair().unwrap();
    let limit = Some(Duration::from_millis(20));
    a.set_timeouts(limit, limit).unwrap();
    assert!(matches!(a.recv::<u8>(), Err(TransportError::TimedOut { .. })));
    let big = vec![0_u8; MAX_FRAME / 2];
    let stuck = (0..1000).find_map(|_| a.send(&big, &[]).err());
    assert!(matches!(stuck, Some(TransportError::TimedOut { .. })));

    a.set_timeouts(None, None).unwrap();
    let waiter = a.try_clone().unwrap();
    let thread = thread::spawn(move || waiter.recv::<u8>().unwrap().is_none());
    a.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(thread.join().unwrap());
    drop(b);
}

#[test]
fn last_words_arrive_though_the_peer_left_without_reading() {
    let (a, b) = Connection::pair().unwrap();
    a.send(&"unread", &[]).unwrap();
    b.send(&"go away", &[]).unwrap();
    drop(b);
    assert_eq!(a.recv::<String>().unwrap().unwrap().0, "go away");
    assert!(a.recv::<String>().unwrap().is_none());
}

#[test]
fn one_server_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/sarcenet/test.sock");
    let (stop, stopper) = pipe();

    let listener = Listener::bind(&path, 0o600).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Listener::bind(&path, 0o600), Err(TransportError::InUse { .. })));

    let client = Connection::connect(&path).unwrap();
    let server = listener.accept(stop.as_fd()).unwrap().unwrap();
    let peer = server.peer().unwrap();
    assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
    assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
    client.send(&5_u8, &[]).unwrap();
    assert_eq!(server.recv::<u8>().unwrap().unwrap().0, 5);

    drop(stopper);
    assert!(listener.accept(stop.as_fd()).unwrap().is_none());
    drop(listener);
    assert!(!path.exists());
    let refused = Connection::connect(&path).unwrap_err().to_string();
    assert!(refused.contains("test.sock"), "{refused}");
}

#[test]
fn dead_sockets_are_replaced_and_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.sock");
    // Dropped without removing its path, as by a killed process.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(Connection::connect(&path).is_err());
    drop(Listener::bind(&path, 0o600).unwrap());

    fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path, 0o600), Err(TransportError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}
