//! One connection, from its first byte to its last.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::Limits;
use super::metrics::{Failure, ServerMetrics};
use super::stop::Stop;

/// Longest head of a request, in bytes: cells name all their apps in one URL (contract section 2.1).
/// The URL itself can have 65,534 bytes.
const LONGEST_HEAD: usize = 1 << 20;

/// Most bytes, and longest time, that a client is listened to after the last answer.
const LINGER: (u64, Duration) = (16 << 20, Duration::from_secs(2));

/// As Go answers plain HTTP where it waits for TLS: start scripts take it for a sign of life
/// (contract section 2.5).
const NOT_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// What all connections of a server have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) router: Router,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
    pub(super) tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    pub(super) metrics: ServerMetrics,
}

impl Common {
    /// Serves a client until it goes, is too slow, or the server stops.
    pub(super) async fn serve(self, stream: TcpStream) {
        let _counted = self.metrics.connection();
        let peer = stream.peer_addr().ok().map(ConnectInfo);
        // Answers are small and written as a whole. A client that does not read them is given up.
        let patience = u32::try_from(self.limits.silence.as_millis()).unwrap_or(u32::MAX);
        let options = stream
            .set_nodelay(true)
            .and_then(|()| Ok(rustix::net::sockopt::set_tcp_user_timeout(&stream, patience)?));
        if let Err(e) = options {
            debug!("a client was gone before it was served: {e}");
            return;
        }
        let Some(mut tls) = self.tls.clone() else {
            return self.converse(stream, peer, std::future::pending()).await;
        };
        let settings = Arc::clone(&tls.borrow_and_update());
        let handshake = self.handshake(stream, settings);
        let stream = tokio::select! {
            stream = timeout(self.limits.handshake, handshake) => stream,
            () = self.stop.stopped() => return,
        };
        match stream {
            Ok(Some(stream)) => {
                // The settings outlive the server; an error would be their end.
                let renewed = async move { drop(tls.changed().await) };
                self.converse(stream, peer, renewed).await;
            }
            Ok(None) => {}
            Err(_) => self.metrics.failed(Failure::Handshake),
        }
    }

    async fn handshake(
        &self,
        mut stream: TcpStream,
        settings: Arc<ServerConfig>,
    ) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            // No type of a TLS record is a letter, and all methods begin with one.
            Ok(1..) if first[0].is_ascii_alphabetic() => {
                self.metrics.failed(Failure::Plaintext);
                if stream.write_all(NOT_TLS).await.is_ok() {
                    linger(stream).await;
                }
                return None;
            }
            Ok(1..) => {}
            // Whether the port is open is all that somebody wanted to know.
            Ok(_) | Err(_) => return None,
        }
        match TlsAcceptor::from(settings).accept(stream).await {
            Ok(stream) => Some(stream),
            Err(e) => {
                debug!("a TLS handshake failed: {e}");
                self.metrics.failed(Failure::Handshake);
                None
            }
        }
    }

    /// Answers requests. After `renewed` the connection ends with the answer to the request that it
    /// is at, as it does when the server stops.
    async fn converse<S>(
        &self,
        stream: S,
        peer: Option<ConnectInfo<SocketAddr>>,
        renewed: impl Future<Output = ()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.silence)
            .max_header_size(LONGEST_HEAD)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |mut request: Request<Incoming>| {
                    if let Some(peer) = peer {
                        request.extensions_mut().insert(peer);
                    }
                    Box::pin(router.call(request))
                }),
            );
        let mut ending = false;
        let mut end = pin!(async {
            tokio::select! {
                () = renewed => {}
                () = self.stop.stopped() => {}
            }
        });
        let result = loop {
            tokio::select! {
                result = poll_fn(|context| connection.poll_without_shutdown(context)) => break result,
                () = &mut end, if !ending => {
                    ending = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        if let Err(e) = result {
            debug!("a connection ended early: {e}");
            if e.is_parse() {
                self.metrics.failed(Failure::Malformed);
            }
        }
        linger(connection.into_parts().io.into_inner()).await;
    }
}

/// Ends our side, then throws away what still comes: closing a connection with something unread
/// would throw the answer away before the client has it.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let (bytes, time) = LINGER;
    let rest = async {
        if stream.shutdown().await.is_ok() {
            let _ = tokio::io::copy(&mut stream.take(bytes), &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(time, rest).await;
}
