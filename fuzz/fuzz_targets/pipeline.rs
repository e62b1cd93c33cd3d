#![no_main]

#[path = "../entry/pipeline.rs"]
mod entry;
#[path = "../../dataplane/tests/packet_table/table/world.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
