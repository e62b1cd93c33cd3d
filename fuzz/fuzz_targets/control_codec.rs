#![no_main]

#[path = "../entry/control_codec.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
