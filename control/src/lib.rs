//! Control processes.
