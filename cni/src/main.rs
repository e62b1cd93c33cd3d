//! CNI plugin.

fn main() {}
