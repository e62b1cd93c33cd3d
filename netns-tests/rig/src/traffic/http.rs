//! A minimal HTTP/1.1 server and client that keep their connections open.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Shutdown, shutdown};

/// Longest body that either side makes or takes, in bytes.
const BODY_MAX: usize = 64 << 20;

/// Serves `GET /` (who it is and whom it talks to) and `GET /bytes/N` (N bytes) until dropped.
/// Open connections live on until their client closes them.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl HttpServer {
    pub(crate) fn start(listener: TcpListener, name: String) -> Result<Self> {
        let doorman = listener.try_clone().context("duplicate a listening socket")?;
        let accepting = std::thread::Builder::new().name(format!("http {name}")).spawn(move || {
            while let Ok((stream, peer)) = doorman.accept() {
                let name = name.clone();
                // A client that goes away in the middle is its own affair.
                std::thread::spawn(move || serve(stream, peer, &name));
            }
        })?;
        Ok(Self { listener, accepting: Some(accepting) })
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // On Linux this wakes a blocked accept(2), which then fails with EINVAL.
        let woken = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let (Ok(()), Some(accepting)) = (woken, self.accepting.take())
            && accepting.join().is_err()
        {
            eprintln!("an HTTP server's thread panicked");
        }
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, name: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    writer.set_nodelay(true)?;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let body = match path.strip_prefix("/bytes/").map(str::parse::<usize>) {
            Some(Ok(length)) if length <= BODY_MAX => pattern(length),
            _ => format!("this is {name}, you are {}\n", peer.ip()).into_bytes(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all(head.as_bytes())?;
        writer.write_all(&body)?;
    }
}

/// Bytes in which a lost, repeated or moved piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(length).collect()
}

/// One open connection to an HTTP server.
#[derive(Debug)]
pub struct HttpClient {
    stream: BufReader<TcpStream>,
}

impl HttpClient {
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Result<Self> {
        stream.set_read_timeout(Some(patience)).context("set a socket's timeout")?;
        stream.set_nodelay(true).context("set a socket's options")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks for the server's greeting.
    pub fn greeting(&mut self) -> Result<String> {
        String::from_utf8(self.get("/")?).context("a greeting that is not text")
    }

    /// Downloads `length` bytes and checks every one of them.
    pub fn download(&mut self, length: usize) -> Result<()> {
        let body = self.get(&format!("/bytes/{length}"))?;
        ensure!(body == pattern(length), "{} bytes arrived, not those sent", body.len());
        Ok(())
    }

    fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: container\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).context("send an HTTP request")?;
        let mut line = String::new();
        self.stream.read_line(&mut line).context("read an HTTP answer")?;
        ensure!(line.starts_with("HTTP/1.1 200 "), "unexpected HTTP answer {line:?}");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).context("read an HTTP header")?;
            match line.trim_end().split_once(": ") {
                Some(("Content-Length", value)) => length = value.parse()?,
                Some(_) => {}
                None => break,
            }
        }
        ensure!(length <= BODY_MAX, "an HTTP body of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).context("read an HTTP body")?;
        Ok(body)
    }
}
