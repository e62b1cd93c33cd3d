//! Servers and clients in any namespace: a container's, a cell's, the outside host's.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{HttpClient, HttpServer, Outcome, UdpAnswer, UdpServer, bind, tcp, udp};
use crate::namespace::Namespace;

impl Namespace {
    /// Opens a TCP connection and closes it at once; gives up after `patience`.
    pub fn connect(&self, to: SocketAddrV4, patience: Duration) -> Result<Outcome> {
        self.run(|| tcp::connect(to, patience))
    }

    /// Opens a TCP connection and keeps it.
    pub fn stream(&self, to: SocketAddrV4, patience: Duration) -> Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to.into(), patience))?
            .with_context(|| format!("connect from {} to {to}", self.name()))
    }

    /// Opens an HTTP connection on which several requests can be made.
    pub fn http(&self, to: SocketAddrV4, patience: Duration) -> Result<HttpClient> {
        HttpClient::new(self.stream(to, patience)?, patience)
    }

    /// Serves HTTP under this name on an address and port until the server is dropped.
    pub fn serve_http(&self, name: &str, local: SocketAddrV4) -> Result<HttpServer> {
        let listener = self
            .run(|| tcp::listen(local))?
            .with_context(|| format!("listen on {local} in {}", self.name()))?;
        HttpServer::start(listener, name.to_owned())
    }

    /// Answers UDP datagrams on an address and port until the server is dropped. On all addresses
    /// it answers from the one that the kernel prefers, not from the one that was asked.
    pub fn serve_udp(&self, local: SocketAddrV4) -> Result<UdpServer> {
        UdpServer::start(self.udp_socket(local)?)
    }

    /// Sends one UDP datagram and waits for an answer or a refusal.
    pub fn ask_udp(
        &self,
        to: SocketAddrV4,
        payload: &[u8],
        patience: Duration,
    ) -> Result<UdpAnswer> {
        let socket = self.udp_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        udp::ask(&socket, to, payload, patience)
    }

    /// A UDP socket.
    pub fn udp_socket(&self, local: SocketAddrV4) -> Result<UdpSocket> {
        self.run(|| bind(|| UdpSocket::bind(local)))?
            .with_context(|| format!("bind {local}/udp in {}", self.name()))
    }
}
