//! The cell's lease of a part of the overlay: got once, renewed as long as the agent runs, and the
//! leases of all other cells (contract sections 4.1, 5.2 and 5.4).

pub mod client;
mod decide;
mod keeper;
pub mod overlay;
pub mod store;

pub use decide::{Fatal, Rules};
pub use keeper::{Keeper, StartFailure};
