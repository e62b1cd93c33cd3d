//! End-to-end tests of whole cells in network namespaces; see the `tests` directory. They need
//! root.
#![forbid(unsafe_code)]
