//! `sarcenet-dataplane`: the process that carries a cell's packets.

fn main() {}
