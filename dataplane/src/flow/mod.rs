//! Conversations: their keys, their entries, the table that holds them, and what is known of
//! their state.

#![forbid(unsafe_code)]

mod entry;
mod eviction;
mod half_open;
mod key;
mod slab;
mod store;
mod table;
mod tracking;
mod translated;
mod window;

pub use entry::Flow;
pub use key::FlowKey;
pub use table::{FlowTable, FlowTableError, Hit, InsertError, NewFlow};
pub use tracking::{Admission, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, tcp_flags_valid};
pub use window::Segment;
