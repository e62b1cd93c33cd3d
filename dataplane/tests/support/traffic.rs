//! Traffic that checks what arrives.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::namespace::Namespace;
use super::{pattern, until};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends `total` bytes over TCP and compares every one that arrives; both ends close.
pub(crate) fn tcp(from: &Namespace, to: &Namespace, address: Ipv4Addr, port: u16, total: u64) {
    let server = listen(to, address, port, move |mut stream| {
        let (mut got, mut expected) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut at = 0;
        while at < total {
            let want = got.len().min((total - at) as usize);
            stream.read_exact(&mut got[..want]).unwrap();
            pattern(at, &mut expected[..want]);
            assert!(got[..want] == expected[..want], "bytes {at}.. differ");
            at += want as u64;
        }
        assert_eq!(stream.read(&mut got).unwrap(), 0, "more bytes than were sent");
        stream.write_all(b"done").unwrap();
    });
    from.run(move || {
        let address = SocketAddrV4::new(address, port).into();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let mut at = 0;
        while at < total {
            let len = buffer.len().min((total - at) as usize);
            pattern(at, &mut buffer[..len]);
            stream.write_all(&buffer[..len]).unwrap();
            at += len as u64;
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"done");
    });
    server.join().unwrap();
}

fn listen(
    to: &Namespace,
    address: Ipv4Addr,
    port: u16,
    serve: impl FnOnce(TcpStream) + Send + 'static,
) -> JoinHandle<()> {
    let listener = to.run(move || bound(|| TcpListener::bind((address, port))));
    spawn(to, move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        serve(stream);
    })
}

/// Sends bursts of datagrams to an echo server and compares what comes back, in order.
pub(crate) fn udp_echo(
    from: &Namespace,
    to: &Namespace,
    address: Ipv4Addr,
    port: u16,
    bursts: u32,
) {
    const BURST: u32 = 32;
    let server = to.run(move || udp(address, port));
    let echo = spawn(to, move || {
        let mut buffer = [0; 2048];
        for _ in 0..bursts * BURST {
            let (len, peer) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], peer).unwrap();
        }
    });
    from.run(move || {
        let socket = udp(Ipv4Addr::UNSPECIFIED, 0);
        socket.connect((address, port)).unwrap();
        for burst in 0..bursts {
            // Small ones and large ones, odd lengths among them.
            let len = |number: u32| 18 + (burst as usize * 7 + number as usize % 2) % 1400;
            for number in 0..BURST {
                let mut datagram = vec![0; len(number)];
                pattern(u64::from(burst * BURST + number) * 8, &mut datagram);
                socket.send(&datagram).unwrap();
            }
            for number in 0..BURST {
                let mut expected = vec![0; len(number)];
                pattern(u64::from(burst * BURST + number) * 8, &mut expected);
                let mut got = [0; 2048];
                let received = socket.recv(&mut got).unwrap();
                assert!(got[..received] == expected, "datagram {number} of burst {burst}");
            }
        }
    });
    echo.join().unwrap();
}

/// Sends one UDP super-packet (`UDP_SEGMENT`, as QUIC servers do) and receives its datagrams.
pub(crate) fn udp_segments(from: &Namespace, to: &Namespace, address: Ipv4Addr, port: u16) {
    let server = to.run(move || udp(address, port));
    let mut sent = vec![0; 10 * 1200 + 77];
    pattern(0, &mut sent);
    let payload = sent.clone();
    from.run(move || {
        let socket = udp(Ipv4Addr::UNSPECIFIED, 0);
        setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &1200).unwrap();
        socket.send_to(&payload, (address, port)).unwrap();
    });
    for expected in sent.chunks(1200) {
        let mut got = [0; 2048];
        let len = server.recv(&mut got).unwrap();
        assert!(&got[..len] == expected, "a datagram of {len} bytes");
    }
}

/// Binds a socket as soon as its address is free.
fn bound<T>(bind: impl Fn() -> io::Result<T>) -> T {
    let mut result = bind();
    until("the address is free", || {
        let in_use = matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        if in_use {
            result = bind();
        }
        !in_use
    });
    result.unwrap()
}

fn udp(address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = bound(|| UdpSocket::bind((address, port)));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Starts a thread in a namespace. Threads inherit the namespace of their parent.
fn spawn(namespace: &Namespace, job: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    namespace.run(|| std::thread::spawn(job))
}
