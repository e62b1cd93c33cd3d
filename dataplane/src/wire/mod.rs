//! Bytes to headers and back, nothing else.
//!
//! Two families of types, after [`smoltcp::wire`], which is used beside this module for Ethernet,
//! IPv4, ICMPv4, TCP and UDP:
//!
//! * A `Packet<T>` is a lens over bytes. Its accessors panic on a buffer that is too short, so it
//!   is made by `new_checked` for bytes that came from anywhere else, and by `new_unchecked` for a
//!   buffer that is about to be written.
//! * A `Repr` is a value: `parse` refuses what it cannot represent and never panics, `emit` writes
//!   every byte of the header.
//!
//! Why a header could not be parsed is nobody's business but a debugger's: [`Error`] carries
//! nothing. The pipeline turns it into a drop reason.
#![deny(unsafe_code)]

pub mod checksum;
pub mod headers;
pub mod tunnel;
pub mod vxlan;

/// A header that is malformed, or that says something this module cannot represent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed or unsupported header")]
pub struct Error;
