//! Bytes to headers and back, nothing else.
