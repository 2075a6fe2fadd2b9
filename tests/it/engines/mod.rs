//! Tests against real engines.

mod containerd;
