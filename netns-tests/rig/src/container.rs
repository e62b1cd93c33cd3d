//! Containers: a namespace with an `eth0` that its cell gave it.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::{Child, Command, Output};
use std::time::Duration;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::traffic::{HttpClient, HttpServer, Outcome, UdpAnswer, UdpServer};

/// What a cell answers when it attaches a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Overlay address.
    pub(crate) address: Ipv4Addr,
    /// MTU of its `eth0` in bytes.
    pub(crate) mtu: u16,
    /// DNS servers for it.
    pub(crate) nameservers: Vec<Ipv4Addr>,
}

/// A running container.
#[derive(Debug, Clone)]
pub struct Container {
    pub(crate) namespace: Namespace,
    pub(crate) handle: String,
    pub(crate) app: Option<String>,
    pub(crate) cell: usize,
    pub(crate) attachment: Attachment,
}

impl Container {
    /// Its overlay address.
    pub fn address(&self) -> Ipv4Addr {
        self.attachment.address
    }

    /// MTU that its cell said it has, in bytes.
    pub fn mtu(&self) -> u16 {
        self.attachment.mtu
    }

    /// The DNS servers that its cell named.
    pub fn nameservers(&self) -> &[Ipv4Addr] {
        &self.attachment.nameservers
    }

    /// Its app.
    pub fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// Its runtime's name for it.
    pub fn handle(&self) -> &str {
        &self.handle
    }

    /// Number of its cell in the world.
    pub fn cell(&self) -> usize {
        self.cell
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a program in it to its end.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.namespace.output(command)
    }

    /// Starts a program in it.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.namespace.spawn(command)
    }

    /// Opens a TCP connection and closes it at once; gives up after `patience`.
    pub fn connect(&self, to: SocketAddrV4, patience: Duration) -> Result<Outcome> {
        self.namespace.connect(to, patience)
    }

    /// Opens a TCP connection and keeps it.
    pub fn stream(&self, to: SocketAddrV4, patience: Duration) -> Result<TcpStream> {
        self.namespace.stream(to, patience)
    }

    /// Opens an HTTP connection on which several requests can be made.
    pub fn http(&self, to: SocketAddrV4, patience: Duration) -> Result<HttpClient> {
        self.namespace.http(to, patience)
    }

    /// Serves HTTP on a port of the container until the server is dropped.
    pub fn serve_http(&self, port: u16) -> Result<HttpServer> {
        let name = self.app.as_deref().unwrap_or(self.namespace.name());
        self.namespace.serve_http(name, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
    }

    /// Answers UDP datagrams on a port of the container until the server is dropped.
    pub fn serve_udp(&self, port: u16) -> Result<UdpServer> {
        self.namespace.serve_udp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
    }

    /// Sends one UDP datagram and waits for an answer or a refusal.
    pub fn ask_udp(
        &self,
        to: SocketAddrV4,
        payload: &[u8],
        patience: Duration,
    ) -> Result<UdpAnswer> {
        self.namespace.ask_udp(to, payload, patience)
    }

    /// A UDP socket in the container.
    pub fn udp_socket(&self, local: SocketAddrV4) -> Result<UdpSocket> {
        self.namespace.udp_socket(local)
    }
}
