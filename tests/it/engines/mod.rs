//! Real engines.

mod docker;
mod loads;
mod odd;
mod podman;
mod sockets;
mod unpacked;
