//! The networker as Garden sees it: words and standard input in, standard output, standard error
//! and exit status out, with the contract's configuration, CNI plugins that follow a script, and
//! an agent that answers from one. Needs root: mounts are made, in a mount namespace of each test.
#![forbid(unsafe_code)]

mod agent;
mod chain;
mod command_line;
mod concurrency;
mod crashes;
mod down;
mod extensions;
mod namespaces;
mod ports;
mod up;
mod world;
