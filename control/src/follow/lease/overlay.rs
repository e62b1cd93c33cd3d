//! Whether the overlay is free on this cell.
