//! Every input of a corpus through the function that the fuzzer feeds.

use std::path::Path;

/// # Panics
/// When an input is not dealt with as it should be, or when there are none.
pub(crate) fn run(corpus: &str, entry: fn(&[u8])) {
    let files = std::fs::read_dir(Path::new(corpus)).expect("a folder of inputs");
    let mut count = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        // Shown when the entry panics.
        println!("{}", path.display());
        entry(&std::fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count > 0, "no inputs in {corpus}");
}
