//! The throughput harness.

fn main() {}
