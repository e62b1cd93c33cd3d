//! Known bytes over TCP, each of which is compared. The whole transfer is bounded, so that a path on
//! which little gets through is a clear error and not a long wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{PATIENCE, Seen, tcp};

/// Bytes written and compared at a time.
const BLOCK: usize = 128 << 10;

/// Waits for one stream.
pub(super) fn accept(listen: SocketAddrV4) -> Result<TcpStream> {
    Ok(tcp::accept(listen, 1)?.remove(0))
}

/// A stream that may be used for so long.
struct Bounded {
    stream: TcpStream,
    began: Instant,
    bound: Duration,
}

impl Bounded {
    fn new(stream: TcpStream, bound: Duration) -> Self {
        Self { stream, began: Instant::now(), bound }
    }

    /// How long the next call may take; an error when the time is over.
    fn left(&self) -> io::Result<Duration> {
        let left = self.bound.saturating_sub(self.began.elapsed());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left.min(PATIENCE)) }
    }

    /// What an error at `position` means.
    fn explain(&self, error: io::Error, position: u64, bytes: u64) -> anyhow::Error {
        let (seconds, done) = (self.began.elapsed().as_secs_f64(), position >> 20);
        if self.began.elapsed() >= self.bound {
            let rate = position as f64 * 8e-6 / seconds;
            return anyhow!(
                "{} MiB were to be carried within {:?}, and only {done} were ({rate:.1} Mbit/s): \
                 the path loses or delays almost everything",
                bytes >> 20,
                self.bound
            );
        }
        let stalled = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        let what = if stalled { "stalled" } else { "ended" };
        anyhow::Error::new(error).context(format!("the stream {what} after {position} bytes"))
    }

    fn seen(&self, bytes: u64) -> Seen {
        let seconds = self.began.elapsed().as_secs_f64();
        Seen { bytes, packets: 0, seconds, cpu_seconds: 0.0 }
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The bytes from `position` on of the test stream: a counter in each 8-byte word, mixed, so that
/// swapped, lost or repeated segments show.
fn fill(position: u64, block: &mut [u8]) {
    for (i, word) in block.chunks_mut(8).enumerate() {
        let mixed = (position / 8 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        word.copy_from_slice(&mixed.to_le_bytes()[..word.len()]);
    }
}

/// Writes so many bytes.
pub(super) fn write(stream: TcpStream, bytes: u64, bound: Duration) -> Result<Seen> {
    let mut stream = Bounded::new(stream, bound);
    let mut block = vec![0; BLOCK];
    let mut position = 0;
    while position < bytes {
        let len = (bytes - position).min(BLOCK as u64) as usize;
        fill(position, &mut block[..len]);
        if let Err(error) = stream.write_all(&block[..len]) {
            return Err(stream.explain(error, position, bytes))
                .context("write to the verifying receiver");
        }
        position += len as u64;
    }
    Ok(stream.seen(bytes))
}

/// Reads so many bytes and compares them.
pub(super) fn read(stream: TcpStream, bytes: u64, bound: Duration) -> Result<Seen> {
    let mut stream = Bounded::new(stream, bound);
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut position = 0;
    while position < bytes {
        let len = (bytes - position).min(BLOCK as u64) as usize;
        if let Err(error) = stream.read_exact(&mut block[..len]) {
            return Err(stream.explain(error, position, bytes)).context("read what was sent");
        }
        fill(position, &mut expected[..len]);
        ensure!(block[..len] == expected[..len], "wrong bytes in the block at {position}");
        position += len as u64;
    }
    Ok(stream.seen(bytes))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(300);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn what_is_sent_is_what_is_expected() {
        let (near, far) = pair();
        let bytes = 3 * BLOCK as u64 + 5;
        let sender = thread::spawn(move || write(near, bytes, LONG).unwrap());
        assert_eq!(read(far, bytes, LONG).unwrap().bytes, bytes);
        assert_eq!(sender.join().unwrap().bytes, bytes);
    }

    #[test]
    fn another_byte_is_seen() {
        let (mut near, far) = pair();
        let mut block = vec![0; BLOCK];
        fill(0, &mut block);
        block[BLOCK - 1] ^= 1;
        let sender = thread::spawn(move || near.write_all(&block));
        let error = read(far, BLOCK as u64, LONG).unwrap_err().to_string();
        assert_eq!(error, "wrong bytes in the block at 0");
        sender.join().unwrap().unwrap();
    }

    /// Right bytes, but so few at a time that no single call takes long.
    #[test]
    fn a_trickle_is_an_error() {
        let (mut near, far) = pair();
        let trickle = thread::spawn(move || {
            let mut block = vec![0; BLOCK];
            fill(0, &mut block);
            // Until the receiver has had enough.
            let mut words = block.chunks(8).cycle();
            while words.next().is_some_and(|word| near.write_all(word).is_ok()) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let error = format!("{:#}", read(far, 256 << 20, SHORT).unwrap_err());
        assert!(error.contains("256 MiB were to be carried within 300ms"), "{error}");
        trickle.join().unwrap();
    }

    #[test]
    fn a_receiver_that_reads_nothing_is_an_error() {
        let (near, _far) = pair();
        let error = format!("{:#}", write(near, 256 << 20, SHORT).unwrap_err());
        assert!(error.contains("256 MiB were to be carried within 300ms"), "{error}");
    }

    #[test]
    fn a_stream_that_ends_early_says_where() {
        let (near, far) = pair();
        write(near, BLOCK as u64, LONG).unwrap();
        let error = format!("{:#}", read(far, 2 * BLOCK as u64, LONG).unwrap_err());
        assert!(error.contains(&format!("the stream ended after {BLOCK} bytes")), "{error}");
    }
}
