//! The subnet controller: who has which part of the overlay (contract section 4).

pub mod pool;
