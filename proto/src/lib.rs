#![doc = include_str!("../PROTOCOL.md")]

pub mod control;
pub mod descriptor;
pub mod digest;
pub mod document;
pub mod frame;
pub mod hash;
pub mod host;
pub mod image;
pub mod job;
pub mod join;
pub mod limits;
pub mod peer;
pub mod platform;
pub mod reference;
pub mod session;
pub mod shape;
pub mod text;

pub use descriptor::Descriptor;
pub use digest::Digest;
pub use host::HostId;
pub use image::{Image, Layer, Manifest};
pub use platform::Platform;
pub use reference::Reference;
