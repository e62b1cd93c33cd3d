//! The stages, in the order a packet meets them.
