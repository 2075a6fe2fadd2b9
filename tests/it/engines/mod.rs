//! Tests against real engines.

mod containerd;
mod docker;
mod podman;
mod unpacked;
