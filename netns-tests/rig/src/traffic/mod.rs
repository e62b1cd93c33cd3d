//! Small servers and clients, exact about what they saw and when.

mod bulk;
mod http;
pub(crate) mod tcp;
pub(crate) mod udp;

pub use bulk::{BulkResult, bulk_transfer};
pub use http::{HttpClient, HttpServer};
pub use tcp::Outcome;
pub use udp::{UdpAnswer, UdpServer};
