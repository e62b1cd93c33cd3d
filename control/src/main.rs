//! The sarcenet command.

fn main() {}
