//! The wire module against other programs' idea of the same bytes.

mod kernel_vectors;
mod pcap;
mod tshark;
