//! What the fuzzer has been given and has found, on the stable compiler.

#[path = "../../../fuzz/entry/control_codec.rs"]
mod control_codec;
#[path = "../../../fuzz/entry/corpus.rs"]
mod corpus;

#[test]
fn control_codec_inputs() {
    corpus::run(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/control_codec"),
        control_codec::run,
    );
}
