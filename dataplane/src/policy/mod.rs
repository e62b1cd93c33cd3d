//! Which conversations may begin.
