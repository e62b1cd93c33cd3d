//! The agent with real namespaces, TUN devices, sockets and files, before a dataplane that only
//! writes down what it is told. Needs root.

mod collector;
mod containers;
mod events;
mod fake;
mod network;
mod outside;
mod restart;
mod socket;
mod veths;
mod wishes;
mod world;
