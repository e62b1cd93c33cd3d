//! HTTP as the servers speak it: what their answers look like and how requests are read.

pub mod body;
pub mod headers;
pub mod json;
pub mod reply;
