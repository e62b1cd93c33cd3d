//! Bulk transfers by iperf3.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::container::Container;
use crate::namespace::Namespace;

/// What iperf3 measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BulkResult {
    /// Received, in bits per second.
    pub bits_per_second: f64,
    /// Segments that the sender sent again.
    pub retransmits: u64,
}

/// Sends TCP in bulk from one container to another, with the cubic congestion control, for so
/// many whole seconds after one second that is not counted.
pub fn bulk_transfer(
    from: &Container,
    to: &Container,
    port: u16,
    streams: u32,
    duration: Duration,
) -> Result<BulkResult> {
    let target = SocketAddrV4::new(to.address(), port);
    let (from, to) = (from.namespace(), to.namespace());
    Bulk { from, to, port, target, streams, reverse: false, duration }.run()
}

/// A bulk transfer between any two namespaces.
#[derive(Debug, Clone, Copy)]
pub struct Bulk<'a> {
    /// Where the client is.
    pub from: &'a Namespace,
    /// Where the server is.
    pub to: &'a Namespace,
    /// Port on which the server listens.
    pub port: u16,
    /// What the client connects to.
    pub target: SocketAddrV4,
    /// Connections at a time.
    pub streams: u32,
    /// Whether the server sends, not the client.
    pub reverse: bool,
    /// How long, in whole seconds; one more is not counted.
    pub duration: Duration,
}

impl Bulk<'_> {
    /// Runs iperf3.
    pub fn run(&self) -> Result<BulkResult> {
        let Self { from, to, port, target, streams, reverse, duration } = self;
        let port_text = port.to_string();
        let mut server = to.spawn(
            Command::new("iperf3")
                .args(["--server", "--one-off", "--forceflush", "--port", &port_text])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )?;
        let ran = (|| {
            let stdout = server.stdout.take().context("a piped child has a standard output")?;
            let listening = BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .any(|l| l.contains("listening"));
            ensure!(listening, "the iperf3 server in {} does not start", to.name());
            from.checked(
                Command::new("iperf3")
                    .args(["--client", &target.ip().to_string()])
                    .args(["--port", &target.port().to_string()])
                    .args(["--json", "--congestion", "cubic", "--omit", "1"])
                    .args(["--time", &duration.as_secs().max(1).to_string()])
                    .args(["--parallel", &streams.to_string()])
                    .args(["--connect-timeout", "2000"])
                    .args(reverse.then_some("--reverse")),
            )
        })();
        // The server ends by itself after one client, but not if that never came.
        server.kill().and_then(|()| server.wait()).context("end the iperf3 server")?;
        let report: serde_json::Value =
            serde_json::from_str(&ran?).context("read iperf3's report")?;
        let number = |pointer: &str| report.pointer(pointer).and_then(serde_json::Value::as_f64);
        Ok(BulkResult {
            bits_per_second: number("/end/sum_received/bits_per_second")
                .context("iperf3's report has no received rate")?,
            retransmits: number("/end/sum_sent/retransmits").unwrap_or(0.0) as u64,
        })
    }
}
