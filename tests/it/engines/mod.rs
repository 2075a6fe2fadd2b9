//! Tests against real engines.

mod containerd;
mod docker;
mod loads;
mod odd;
mod podman;
mod sockets;
mod unpacked;
mod whole;
