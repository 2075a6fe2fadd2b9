//! What the tests need of the operating system beyond safe libraries.

pub mod tun;
