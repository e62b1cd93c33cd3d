//! End-to-end tests live in `tests/`; the worlds they run in are built by the `sarcenet-rig` crate.
