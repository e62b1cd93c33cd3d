//! A name server that knows one name (RFC 1035).

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sarcenet_rig::Namespace;

/// The name.
pub(crate) const NAME: &str = "database.example";
/// Its address (TEST-NET-1, RFC 5737).
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// How often it looks whether it should end.
const TICK: Duration = Duration::from_millis(20);
/// Length of a message's header, in bytes.
const HEADER: usize = 12;

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct NameServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    pub(crate) fn start(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let socket = namespace.udp_socket(SocketAddrV4::new(address, 53))?;
        socket.set_read_timeout(Some(TICK)).context("set a socket's timeout")?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&socket, &stop)
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the name server's thread panicked");
        }
    }
}

fn serve(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        // Errors are time-outs, and refusals of earlier answers.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = reply(&buffer[..length])
            && let Err(error) = socket.send_to(&reply, from)
        {
            eprintln!("the name server cannot answer {from}: {error}");
        }
    }
}

/// The answer to a question; none to what is none.
fn reply(question: &[u8]) -> Option<Vec<u8>> {
    let body = question.get(HEADER..)?;
    let name: Vec<u8> = NAME
        .split('.')
        .flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes()))
        .chain([0])
        .collect();
    let known = body.starts_with(&name);
    let end = body.iter().position(|&byte| byte == 0)? + 1;
    // Type A, class IN.
    let is_address = body.get(end..end + 4)? == [0, 1, 0, 1];
    let answers = u8::from(known && is_address);
    let mut reply = question[..2].to_vec();
    // A response with recursion available; "no such name" is 3.
    reply.extend([0x81, if known { 0x80 } else { 0x83 }]);
    reply.extend([0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(&body[..end + 4]);
    if answers == 1 {
        // The name of the question, type A, class IN, for a minute, four bytes.
        reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(ADDRESS.octets());
    }
    Some(reply)
}
