//! What the fuzzer has been given and has found, on the stable compiler.

#[path = "../../fuzz/entry/corpus.rs"]
mod corpus;
#[path = "../../fuzz/entry/wire.rs"]
mod wire;

#[test]
fn wire_inputs() {
    corpus::run(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/wire"), wire::run);
}
