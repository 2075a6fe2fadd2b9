//! Tests against real engines.

mod archives;
mod containerd;
mod docker;
mod documents;
mod faults;
mod forms;
mod loads;
mod odd;
mod pairs;
mod pins;
mod podman;
mod poison;
mod rights;
mod shared;
mod sockets;
mod unpacked;
mod whole;
