//! Conversations of question and answer by UDP, all at the same time, many from every port.
//!
//! Each question has a number, which the answer repeats. So an answer that comes to another port
//! than the one that asked is seen: somebody on the way has mixed conversations up.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use serde::{Deserialize, Serialize};

use super::udp::{BATCH, TICK, listen_on};

/// Questions on their way at a time. They come as fast as they are answered, so that a slow machine
/// loses no more than a fast one; less than an interface's queue has room for.
const WINDOW: usize = 256;
/// How often a question without an answer is asked, at most.
const ATTEMPTS: usize = 5;
/// After so much silence the questions on their way count as lost.
const SILENCE: Duration = Duration::from_millis(200);

/// What came of the questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Conversed {
    /// Conversations.
    pub(crate) asked: u64,
    /// Those with an answer.
    pub(crate) answered: u64,
    /// Answers that came to another port than the one that asked.
    pub(crate) strayed: u64,
    /// Seconds that it took.
    pub(crate) seconds: f64,
}

/// The whole set of conversations: from every one of `sources` ports to the same port of every one
/// of `addresses` addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conversations {
    /// The first address, and the port of all.
    pub(super) first: SocketAddrV4,
    /// How many addresses, upwards from that one.
    pub(super) addresses: u8,
    /// How many ports ask.
    pub(super) sources: u16,
}

impl Conversations {
    fn count(&self) -> usize {
        usize::from(self.addresses) * usize::from(self.sources)
    }

    /// Which of the asking ports, and whom it asks.
    fn ends(&self, number: usize) -> (usize, SocketAddrV4) {
        let (turn, source) =
            (number / usize::from(self.sources), number % usize::from(self.sources));
        (source, address(self.first, turn as u32))
    }
}

fn address(first: SocketAddrV4, step: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(first.ip().to_bits().wrapping_add(step)), first.port())
}

/// Sends every datagram back, from the address it was sent to, until its standard input ends.
pub(super) fn answer(first: SocketAddrV4, addresses: u8) -> Result<()> {
    let sockets = (0..u32::from(addresses))
        .map(|step| listen_on(address(first, step)))
        .collect::<Result<Vec<_>>>()?;
    super::say_ready()?;
    serve(&sockets, &super::watch_input())
}

fn serve(sockets: &[UdpSocket], ended: &AtomicBool) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll instance")?;
    for (number, socket) in sockets.iter().enumerate() {
        watch(&epoll, socket, number)?;
    }
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut replies = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = [[0; 64]; BATCH];
    while !ended.load(Ordering::Relaxed) {
        for source in ready(&epoll, TICK)? {
            let fd = sockets[source].as_raw_fd();
            let mut slices: Vec<_> = buffers.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let (mut lengths, mut senders) = (Vec::new(), Vec::new());
            match recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None) {
                Ok(results) => {
                    for message in results {
                        lengths.push(message.bytes);
                        senders.push(message.address);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(e) => return Err(e).context("receive questions"),
            }
            let slices: Vec<_> = buffers
                .iter()
                .zip(&lengths)
                .map(|(b, &length)| [IoSlice::new(&b[..length])])
                .collect();
            match sendmmsg(fd, &mut replies, &slices, &senders, [], MsgFlags::empty()) {
                // An answer that is lost is asked for again.
                Ok(_)
                | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR | Errno::ECONNREFUSED) => {}
                Err(e) => return Err(e).context("send answers"),
            }
        }
    }
    Ok(())
}

/// Has all conversations, in so many rounds: the second round is about conversations that are known
/// already. What is returned is about the last round.
pub(super) fn converse(all: Conversations, rounds: u16) -> Result<Conversed> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit on open files")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("make an epoll instance")?;
    let mut sockets = Vec::new();
    for _ in 0..all.sources {
        let socket = UdpSocket::bind("0.0.0.0:0").with_context(|| {
            format!("open {} sockets of {} to ask from", sockets.len() + 1, all.sources)
        })?;
        socket.set_nonblocking(true)?;
        watch(&epoll, &socket, sockets.len())?;
        sockets.push(socket);
    }
    let mut last = None;
    for _ in 0..rounds.max(1) {
        let round = Round::new(all, &sockets, &epoll);
        last = Some(round.run()?);
    }
    last.context("at least one round")
}

/// One question in each conversation.
struct Round<'a> {
    all: Conversations,
    sockets: &'a [UdpSocket],
    epoll: &'a Epoll,
    answered: Vec<bool>,
    strayed: u64,
}

impl<'a> Round<'a> {
    fn new(all: Conversations, sockets: &'a [UdpSocket], epoll: &'a Epoll) -> Self {
        Self { all, sockets, epoll, answered: vec![false; all.count()], strayed: 0 }
    }

    fn run(mut self) -> Result<Conversed> {
        let began = Instant::now();
        for _ in 0..ATTEMPTS {
            let left: Vec<usize> =
                (0..self.answered.len()).filter(|&number| !self.answered[number]).collect();
            self.attempt(&left)?;
        }
        Ok(Conversed {
            asked: self.answered.len() as u64,
            answered: self.answered.iter().filter(|answered| **answered).count() as u64,
            strayed: self.strayed,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// Asks these once.
    fn attempt(&mut self, left: &[usize]) -> Result<()> {
        let (mut left, mut on_their_way) = (left.iter(), 0_usize);
        loop {
            for &number in left.by_ref().take(WINDOW - on_their_way) {
                let (source, to) = self.all.ends(number);
                // What the interface has no room for is lost like everything else.
                let _ = self.sockets[source].send_to(&(number as u64).to_be_bytes(), to);
                on_their_way += 1;
            }
            if on_their_way == 0 {
                return Ok(());
            }
            let ready = ready(self.epoll, SILENCE)?;
            on_their_way = if ready.is_empty() {
                0
            } else {
                ready
                    .into_iter()
                    .fold(on_their_way, |left, source| left.saturating_sub(self.read(source)))
            };
        }
    }

    /// Reads all that has come to one socket.
    fn read(&mut self, source: usize) -> usize {
        let (mut buffer, mut received) = ([0; 8], 0);
        while let Ok((length, _)) = self.sockets[source].recv_from(&mut buffer) {
            let number = u64::from_be_bytes(buffer) as usize;
            match self.answered.get_mut(number) {
                Some(answered) if length == buffer.len() && self.all.ends(number).0 == source => {
                    *answered = true;
                }
                _ => self.strayed += 1,
            }
            received += 1;
        }
        received
    }
}

fn watch(epoll: &Epoll, socket: &UdpSocket, number: usize) -> Result<()> {
    epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).context("watch a socket")
}

/// Numbers of the sockets that something has come to.
fn ready(epoll: &Epoll, time: Duration) -> Result<Vec<usize>> {
    let mut events = [EpollEvent::empty(); BATCH];
    match epoll.wait(&mut events, EpollTimeout::try_from(time)?) {
        Ok(count) => Ok(events[..count].iter().map(|event| event.data() as usize).collect()),
        Err(Errno::EINTR) => Ok(Vec::new()),
        Err(e) => Err(e).context("wait for datagrams"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 10, 255), 7);

    #[test]
    fn every_port_asks_every_address_once() {
        let all = Conversations { first: FIRST, addresses: 3, sources: 2 };
        let ends: Vec<_> = (0..all.count()).map(|number| all.ends(number)).collect();
        let at = |text: &str| text.parse().unwrap();
        let expected: [(usize, SocketAddrV4); 6] = [
            (0, at("127.0.10.255:7")),
            (1, at("127.0.10.255:7")),
            (0, at("127.0.11.0:7")),
            (1, at("127.0.11.0:7")),
            (0, at("127.0.11.1:7")),
            (1, at("127.0.11.1:7")),
        ];
        assert_eq!(ends, expected);
    }

    /// Sockets on addresses of the loopback device, and conversations with them.
    fn ends(addresses: u8, sources: u16) -> (Vec<UdpSocket>, Conversations) {
        let first = listen_on(SocketAddrV4::new(*FIRST.ip(), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let all = Conversations { first: SocketAddrV4::new(*FIRST.ip(), port), addresses, sources };
        let others = (1..u32::from(addresses)).map(|step| listen_on(address(all.first, step)));
        (std::iter::once(Ok(first)).chain(others).collect::<Result<_>>().unwrap(), all)
    }

    #[test]
    fn all_conversations_are_answered() {
        let (sockets, all) = ends(3, 200);
        let ended = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let serving = scope.spawn(|| serve(&sockets, &ended));
            let seen = converse(all, 2);
            ended.store(true, Ordering::Relaxed);
            serving.join().unwrap().unwrap();
            seen.unwrap()
        });
        assert_eq!((seen.asked, seen.answered, seen.strayed), (600, 600, 0));
    }

    #[test]
    fn answers_to_somebody_else_are_seen() {
        let (sockets, all) = ends(1, 2);
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut questions = [[0; 8]; 2];
                let senders = questions.each_mut().map(|text| sockets[0].recv_from(text));
                let [(_, first), (_, second)] = senders.map(Result::unwrap);
                sockets[0].send_to(&questions[0], second).unwrap();
                sockets[0].send_to(&questions[1], first).unwrap();
            });
            converse(all, 1).unwrap()
        });
        assert_eq!((seen.asked, seen.answered, seen.strayed), (2, 0, 2));
    }
}
