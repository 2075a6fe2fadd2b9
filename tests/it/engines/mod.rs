//! Real engines.

mod docker;
mod podman;
mod unpacked;
