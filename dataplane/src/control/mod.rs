//! The control socket: desired state in, status out.
