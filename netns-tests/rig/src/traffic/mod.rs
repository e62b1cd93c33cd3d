//! Small servers and clients, exact about what they saw and when.

mod bulk;
mod endpoint;
mod http;
mod tcp;
mod udp;

use std::io;
use std::time::{Duration, Instant};

pub use bulk::{Bulk, BulkResult, bulk_transfer};
pub use http::{HttpClient, HttpServer, serve_http_forever};
pub use tcp::Outcome;
pub use udp::{UdpAnswer, UdpServer, ask as ask_udp};

/// How long a port may still be held by a socket that was closed.
const PORT_PATIENCE: Duration = Duration::from_secs(20);

/// Binds a socket; waits while its port is taken. A program that another thread is just starting
/// has copies of all sockets until its exec(2), also of those that are closed here meanwhile.
fn bind<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}
