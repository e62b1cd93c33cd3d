//! Certificates, servers, and clients that say exactly what they are told.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sarcenet_server::certs::{self, Certs, Options};
use sarcenet_server::client::ClientFiles;
use sarcenet_server::http::metrics::Metrics;
use sarcenet_server::http::tls::{ServerFiles, ServerTls};
use sarcenet_server::http::{Limits, Serve, Server, Stopper, stop};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A CA with a server's and a client's certificate. Two of them, made once, for all tests that do
/// not change them.
pub(crate) static OURS: LazyLock<Authority> = LazyLock::new(Authority::new);
pub(crate) static THEIRS: LazyLock<Authority> = LazyLock::new(Authority::new);

pub(crate) struct Authority {
    pub(crate) directory: TempDir,
    pub(crate) certs: Certs,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certs = certs::init(directory.path(), &Options::default()).unwrap();
        Self { directory, certs }
    }

    /// The files of a server that wants certificates of this CA.
    pub(crate) fn server(&self) -> ServerFiles {
        ServerFiles {
            identity: self.certs.server.clone(),
            client_ca: Some(self.certs.ca.certificate.clone()),
        }
    }

    pub(crate) fn client(&self) -> ClientFiles {
        ClientFiles {
            server_ca: self.certs.ca.certificate.clone(),
            identity: self.certs.client.clone(),
        }
    }
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) stopper: Stopper,
    pub(crate) metrics: Metrics,
}

impl Running {
    pub(crate) async fn plain(router: Router, limits: Limits) -> Self {
        Self::start(router, limits, None).await
    }

    /// With mTLS by our CA.
    pub(crate) async fn mutual(router: Router, limits: Limits) -> Self {
        Self::start(router, limits, Some(OURS.server())).await
    }

    pub(crate) async fn start(router: Router, limits: Limits, files: Option<ServerFiles>) -> Self {
        let (stopper, stop) = stop();
        let metrics = Metrics::default();
        let tls = files.map(|files| ServerTls::load(files).unwrap());
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let serve = Serve { name: "test", address, tls, router, limits };
        let server = Server::start(serve, &metrics, stop).await.unwrap();
        Self { server, stopper, metrics }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    /// A TLS connection; with TLS 1.3 a refusal shows only when something is read.
    pub(crate) async fn tls(
        &self,
        settings: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(settings)).connect(name, self.tcp().await).await
    }

    /// The answer to one request over TLS as the client of our CA.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = self.tls(OURS.client().settings().unwrap()).await.unwrap();
        ask(stream, &request(method, path, body)).await.unwrap()
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn count(&self, line: &str) {
        while !self.metrics.text().unwrap().lines().any(|have| have == line) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A request after which the connection ends.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n{body}").into()
}

/// Says this and hears the answer, until the server ends the connection.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite>(
    stream: S,
    bytes: &[u8],
) -> std::io::Result<Answer> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        // The server need not want to hear all of it.
        let _ = writer.write_all(bytes).await;
        let _ = writer.flush().await;
    };
    let read = async {
        let mut text = Vec::new();
        let end = reader.read_to_end(&mut text).await;
        if text.is_empty() { end.map(|_| text) } else { Ok(text) }
    };
    let ((), text) = tokio::join!(write, read);
    Answer::parse(&text?).ok_or_else(|| std::io::Error::other("no answer"))
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Some(Self { status, headers, body: body.to_owned() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }
}
