//! Messages between a cell's agent and its clients.
