//! A minimal HTTP/1.1 server and client that keep their connections open.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{Shutdown, shutdown};

use super::tcp;

/// Longest body that either side makes or takes, in bytes.
const BODY_MAX: usize = 64 << 20;

/// Serves `GET /` (who it is and whom it talks to), `GET /bytes/N` (N bytes) and `POST /bytes`
/// (says whether the bytes are the right ones) until dropped.
/// Open connections live on until their client closes them.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl HttpServer {
    pub(crate) fn start(listener: TcpListener, name: String) -> Result<Self> {
        let doorman = listener.try_clone().context("duplicate a listening socket")?;
        let accepting =
            std::thread::Builder::new().name(format!("http {name}")).spawn(move || {
                accept(&doorman, &name);
            })?;
        Ok(Self { listener, accepting: Some(accepting) })
    }
}

/// Serves HTTP as [`HttpServer`] does, on the calling thread and in its namespace, until the
/// process ends.
pub fn serve_http_forever(port: u16, name: &str) -> Result<()> {
    let local = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let listener = tcp::listen(local).with_context(|| format!("listen on port {port}"))?;
    accept(&listener, name);
    Ok(())
}

fn accept(listener: &TcpListener, name: &str) {
    while let Ok((stream, peer)) = listener.accept() {
        let name = name.to_owned();
        // A client that goes away in the middle is its own affair.
        std::thread::spawn(move || serve(stream, peer, &name));
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
        let mut received = vec![0; content_length(&mut reader)?];
        reader.read_exact(&mut received)?;
        let path = request.split(' ').nth(1).unwrap_or("/");
        let body = match path.strip_prefix("/bytes/").map(str::parse::<usize>) {
            Some(Ok(length)) if length <= BODY_MAX => pattern(length),
            _ if !received.is_empty() && received == pattern(received.len()) => {
                format!("{} bytes, all right\n", received.len()).into_bytes()
            }
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

/// Reads headers to their end; returns the length of the body that follows, in bytes.
fn content_length(reader: &mut impl BufRead) -> std::io::Result<usize> {
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim_end().parse().map_err(std::io::Error::other)?;
        }
        line.clear();
    }
    if length > BODY_MAX {
        return Err(std::io::Error::other(format!("an HTTP body of {length} bytes")));
    }
    Ok(length)
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

    /// Uploads `length` bytes, every one of which the server checks.
    pub fn upload(&mut self, length: usize) -> Result<()> {
        let head = format!("POST /bytes HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let request = [head.as_bytes(), &pattern(length)].concat();
        let answer = String::from_utf8(self.ask(&request)?).context("an answer of no text")?;
        ensure!(answer == format!("{length} bytes, all right\n"), "{length} bytes: {answer}");
        Ok(())
    }

    fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: container\r\n\r\n").as_bytes())
    }

    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.stream.get_mut().write_all(request).context("send an HTTP request")?;
        let mut line = String::new();
        self.stream.read_line(&mut line).context("read an HTTP answer")?;
        ensure!(line.starts_with("HTTP/1.1 200 "), "unexpected HTTP answer {line:?}");
        let length = content_length(&mut self.stream).context("read HTTP headers")?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).context("read an HTTP body")?;
        Ok(body)
    }
}
