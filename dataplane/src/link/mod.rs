//! The doors: where packets come in and go out.
