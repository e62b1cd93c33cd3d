//! What the fuzzer has been given and has found, on the stable compiler.

#[path = "../../fuzz/entry/corpus.rs"]
mod corpus;
#[path = "../../fuzz/entry/door.rs"]
mod door;
#[path = "../../fuzz/entry/outer.rs"]
mod outer;
#[path = "../../fuzz/entry/pipeline.rs"]
mod pipeline;
#[path = "../../fuzz/entry/wire.rs"]
mod wire;
#[path = "packet_table/table/world.rs"]
#[expect(dead_code, reason = "shared with tests that use more of it")]
mod world;

#[test]
fn wire_inputs() {
    corpus::run(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/wire"), wire::run);
}

#[test]
fn door_inputs() {
    corpus::run(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/door"), door::run);
}

#[test]
fn outer_inputs() {
    corpus::run(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/outer"), outer::run);
}

#[test]
fn pipeline_inputs() {
    corpus::run(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/pipeline"), pipeline::run);
}
